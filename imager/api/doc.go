// Package api is what boot server, image origin and appliance say to each
// other over HTTP: paths, JSON bodies and the rule that names a target disk.
// Values only; clients and handlers live with the programs that need them.
package api
