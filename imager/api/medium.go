package api

import "fmt"

// A medium (a stick, a CD) that the appliance is started from is an ISO 9660
// volume whose name is on the kernel command line, huck.medium=NAME.
const (
	// MediumPrefix begins the volume's name; 16 hexadecimal digits follow.
	MediumPrefix = "HUCK_"
	// MediumAssignment is the file with the Assignment that is carried out
	// without a server, if there is one, and MediumImages the store that its
	// image is in.
	MediumAssignment = "huck/assignment.json"
	MediumImages     = "huck/images"
)

// CheckInstall tells what of an assignment to install something makes no
// sense.
func (a Assignment) CheckInstall() error {
	if a.Action != ActionInstall || a.Ref == "" {
		return fmt.Errorf("api: %q of image %q is no installation", a.Action, a.Ref)
	}
	if _, err := ParseRule(a.Disk); err != nil {
		return err
	}
	if _, err := ParseThen(string(a.Then)); err != nil {
		return err
	}
	return a.InstallOptions.Check()
}
