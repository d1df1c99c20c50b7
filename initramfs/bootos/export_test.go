package bootos

// What the device-mapper is asked, for the tests.
var (
	DMRequest = dmRequest
	DMTable   = dmTable
	GRUBNames = grubNames
)

// DMLoad and DMReadOnly are the numbers of a command, as an ioctl, and a flag.
const (
	DMLoad     = dmIoctlBase | dmLoad
	DMReadOnly = dmReadOnly
)
