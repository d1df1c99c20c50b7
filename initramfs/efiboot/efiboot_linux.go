package efiboot

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/efivarfs"
	"golang.org/x/sys/unix"

	"huck/imager/disk"
	"huck/imager/ptable"
)

// espType is the type of EFI system partitions (UEFI 2.10, table 5.7).
const espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

// ErrNoESP says that a disk has no EFI system partition in a GPT: nothing on it
// is for firmware to start this way.
var ErrNoESP = errors.New("efiboot: no EFI system partition")

// Entry is a boot entry made for a disk.
type Entry struct {
	Number uint16
	// Loader is the file it names, as firmware writes it.
	Loader string
}

func (e Entry) String() string { return fmt.Sprintf("%s, %s", bootName(e.Number), e.Loader) }

// Install makes the disk at path known to this machine's firmware. dir is an
// empty folder to mount the EFI system partition on for a moment. Errors wrap
// ErrNoESP, ErrNoLoader or those of the firmware's variables.
func Install(path, dir string) (e Entry, err error) {
	p, node, err := systemPartition(path)
	if err != nil {
		return e, err
	}
	if e.Loader, err = prepare(node, dir); err != nil {
		return e, err
	}
	v, err := efivarfs.New()
	if err != nil {
		return e, fmt.Errorf("efiboot: %w", err)
	}
	e.Number, err = SetEntry(v, p, e.Loader)
	return e, err
}

// StartEntryNext is StartNext with this machine's firmware.
func StartEntryNext(n uint16) error {
	v, err := efivarfs.New()
	if err != nil {
		return fmt.Errorf("efiboot: %w", err)
	}
	return StartNext(v, n)
}

// systemPartition finds the EFI system partition and its device node.
func systemPartition(path string) (_ Partition, node string, err error) {
	dev, err := disk.Open(path, false)
	if err != nil {
		return Partition{}, "", err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	t, err := ptable.Read(dev, dev.Size(), dev.SectorSize())
	if err != nil {
		return Partition{}, "", fmt.Errorf("efiboot: %s: %w", path, err)
	}
	i := slices.IndexFunc(t.Parts, func(p ptable.Part) bool { return strings.EqualFold(p.Type, espType) })
	if t.Kind != "gpt" || i < 0 {
		return Partition{}, "", fmt.Errorf("%w on %s", ErrNoESP, path)
	}
	p := t.Parts[i]
	nodes, err := disk.Partitions(path)
	if err != nil {
		return Partition{}, "", err
	}
	n := slices.IndexFunc(nodes, func(o disk.Partition) bool { return o.Number == p.Number })
	if n < 0 {
		return Partition{}, "", fmt.Errorf("efiboot: the kernel does not see partition %d of %s", p.Number, path)
	}
	return Partition{p.Number, p.UUID, p.Start, p.Size, dev.SectorSize()}, nodes[n].Path, nil
}

// prepare mounts the EFI system partition and finds its loader.
func prepare(node, dir string) (loader string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("efiboot: %w", err)
	}
	if err := unix.Mount(node, dir, "vfat", unix.MS_NOEXEC|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return "", fmt.Errorf("efiboot: mount %s: %w", node, err)
	}
	defer func() {
		if uerr := unix.Unmount(dir, 0); uerr != nil {
			err = errors.Join(err, fmt.Errorf("efiboot: unmount %s: %w", node, uerr))
		}
	}()
	esp, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("efiboot: %w", err)
	}
	defer func() { err = errors.Join(err, esp.Close()) }()
	return Loader(esp)
}
