// Package origin serves the images of a store over HTTP and multicast, and
// holds the client that asks for them. `imager send` and the boot server are
// origins; `imager receive` and the appliance are clients. The paths are
// imager/api's.
package origin
