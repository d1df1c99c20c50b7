package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"huck/imager/api"
)

// List returns this machine's whole disks by name. Loop, RAM, device mapper and
// RAID devices, floppy and CD drives, and the boot and replay areas of eMMC
// are left out. Who booted from which is not for List to know: Boot is false.
func List() ([]api.Disk, error) { return ListUnder("/") }

// ListUnder is List with the kernel's /sys under root, for tests.
func ListUnder(root string) ([]api.Disk, error) {
	block := system{root}.path("sys/block")
	entries, err := os.ReadDir(block)
	if err != nil {
		return nil, fmt.Errorf("disk: list: %w", err)
	}
	disks := []api.Disk{}
	for _, e := range entries {
		dir, err := filepath.EvalSymlinks(filepath.Join(block, e.Name()))
		if err != nil || !isDisk(dir) {
			continue // unplugged a moment ago, or none of ours
		}
		disks = append(disks, describeDisk(dir))
	}
	return disks, nil
}

// Coming reports whether the kernel has found a USB disk and has made no block
// device of it yet: it waits a second before it asks one, and for those that
// spin up.
func Coming() bool { return ComingUnder("/") }

// ComingUnder is Coming with the kernel's /sys under root, for tests.
func ComingUnder(root string) bool {
	const massStorage = "08"                                                     // USB-IF, Defined Class Codes
	interfaces, _ := filepath.Glob(system{root}.path("sys/bus/usb/devices/*:*")) // fails on bad patterns only
	for _, dir := range interfaces {
		if attr(dir, "bInterfaceClass") != massStorage {
			continue
		}
		if nodes, _ := filepath.Glob(filepath.Join(dir, "host*/target*/*/block/*")); len(nodes) == 0 {
			return true
		}
	}
	return false
}

// isDisk tells a disk from what else is in /sys/block: only hardware has a
// device behind it. NVMe paths under a multipath disk are hidden.
func isDisk(dir string) bool {
	name := filepath.Base(dir)
	for _, p := range []string{"sr", "fd"} {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	if strings.HasPrefix(name, "mmcblk") && strings.ContainsAny(name[len("mmcblk"):], "br") { // boot0, boot1, rpmb
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "device"))
	return err == nil && attr(dir, "hidden") != "1"
}

func describeDisk(dir string) api.Disk {
	d := api.Disk{
		Path:       devPath(dir),
		Size:       attrInt(dir, "size") * 512, // whatever the sector size
		SectorSize: int(attrInt(dir, "queue/logical_block_size")),
		Model:      attr(dir, "device/model"),
		Transport:  transport(dir),
		Rotational: attr(dir, "queue/rotational") == "1",
		Removable:  attr(dir, "removable") == "1",
		ReadOnly:   attr(dir, "ro") == "1",
		WWN:        wwn(dir),
	}
	d.Serial = serial(dir, d.Transport)
	if d.Transport == "mmc" {
		d.Model = attr(dir, "device/name")
	}
	return d
}

// transport reads how a disk is attached from where the kernel has put it. The
// order matters: a USB disk has a SCSI host, too, and so has a SATA disk.
func transport(dir string) string {
	has := func(prefix string) bool {
		return slices.ContainsFunc(strings.Split(dir, "/"), func(e string) bool { return strings.HasPrefix(e, prefix) })
	}
	switch {
	case strings.HasPrefix(filepath.Base(dir), "nvme"):
		return "nvme"
	case has("mmc_host"):
		return "mmc"
	case has("usb"):
		return "usb"
	case has("ata"):
		return "sata"
	case has("end_device-"):
		return "sas"
	case strings.HasPrefix(filepath.Base(dir), "vd"):
		return "virtio"
	case has("target"):
		return "scsi"
	}
	return ""
}

// serial looks where the drivers put the serial number: NVMe and MMC beside
// the device, virtio beside the disk, SCSI and ATA in vital product data page
// 0x80 (SPC-4, 7.8.16: four bytes of header, then text).
func serial(dir, transport string) string {
	if b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(b) > 4 && b[1] == 0x80 {
		if s := printable(b[4:]); s != "" {
			return s
		}
	}
	for _, a := range []string{"device/serial", "serial"} {
		if s := printable([]byte(attr(dir, a))); s != "" {
			return s
		}
	}
	if transport == "usb" {
		// Many USB bridges only tell in their own descriptor, further up.
		for p := filepath.Dir(dir); filepath.Base(p) != "sys" && p != "/"; p = filepath.Dir(p) {
			if attr(p, "idVendor") != "" {
				return printable([]byte(attr(p, "serial")))
			}
		}
	}
	return ""
}

// printable keeps what a person can type; some disks pad with NUL.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b))
	return strings.TrimSpace(s)
}

// wwn returns the disk's world wide name as lsblk writes it: 0x… for an NAA
// name, eui.…, nvme.… or uuid.… for NVMe.
func wwn(dir string) string {
	for _, a := range []string{"wwid", "device/wwid"} {
		id := attr(dir, a)
		if naa, ok := strings.CutPrefix(id, "naa."); ok {
			return "0x" + naa
		}
		for _, p := range []string{"eui.", "nvme.", "uuid."} {
			if strings.HasPrefix(id, p) {
				return id
			}
		}
	}
	return ""
}
