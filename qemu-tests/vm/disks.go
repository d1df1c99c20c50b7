package vm

import "fmt"

// Attached is a disk beside a machine's virtio ones.
type Attached struct {
	// File is in raw format.
	File string
	// Bus is how it is attached.
	Bus Bus
	// Serial is its serial number.
	Serial string
	// SectorSize is its logical sector size in bytes; 0 is 512.
	SectorSize int
}

// Bus is what a disk is attached to.
type Bus string

// The buses.
const (
	NVMe       Bus = "nvme"
	USBStorage Bus = "usb-storage"
	SATA       Bus = "ide-hd"
	VirtioSCSI Bus = "scsi-hd"
)

// Attach replaces the attached disks of a machine that is off. Their order is
// the one in which the machine finds them.
func (m *Machine) Attach(disks ...Attached) { m.attached = disks }

// controllers are those that a disk on a bus gets for itself.
var controllers = map[Bus]string{USBStorage: "qemu-xhci", SATA: "ahci", VirtioSCSI: "virtio-scsi-pci"}

// attachments returns QEMU's arguments for the attached disks.
func (m *Machine) attachments() (args []string) {
	for i, d := range m.attached {
		id := fmt.Sprintf("attached%d", i)
		device := fmt.Sprintf("%s,drive=%s,serial=%s", d.Bus, id, d.Serial)
		if c := controllers[d.Bus]; c != "" {
			args = append(args, "-device", c+",id=hub"+id)
			device += fmt.Sprintf(",bus=hub%s.0", id)
		}
		if d.SectorSize != 0 {
			device += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.SectorSize, d.SectorSize)
		}
		args = append(args, "-drive", "if=none,format=raw,cache=unsafe,discard=unmap,id="+id+",file="+d.File, "-device", device)
	}
	return args
}
