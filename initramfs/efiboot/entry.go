// Package efiboot makes a disk that was just written known to UEFI firmware: a
// boot entry for its loader, and the fallback path that firmware without one
// looks for.
package efiboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/u-root/u-root/pkg/efivarfs"
)

// Vars are the firmware's variables; an *efivarfs.EFIVarFS is one.
type Vars interface {
	Get(efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error)
	Set(efivarfs.VariableDescriptor, efivarfs.VariableAttributes, []byte) error
	List() ([]efivarfs.VariableDescriptor, error)
}

// Partition is an EFI system partition in a GPT.
type Partition struct {
	Number int
	// UUID is the partition's own.
	UUID string
	// Start and Size are in bytes, Sector is the disk's sector size.
	Start, Size int64
	Sector      int
}

// Description is how our entry is called in the firmware's menu. There is one
// a machine: installing another system changes it.
const Description = "Huck: installed system"

// kept is how boot variables are stored: they outlive a reset and are there
// before and after the system has taken over (UEFI 2.10, 3.3).
const kept = efivarfs.AttributeNonVolatile | efivarfs.AttributeBootserviceAccess | efivarfs.AttributeRuntimeAccess

// global is the namespace of the architecture's own variables (UEFI 2.10, 3.3).
func global(name string) efivarfs.VariableDescriptor {
	return efivarfs.VariableDescriptor{Name: name, GUID: uuid.UUID{0x8b, 0xe4, 0xdf, 0x61, 0x93, 0xca, 0x11, 0xd2, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}}
}

func bootName(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

// SetEntry sees to it that the boot manager knows the file on the partition,
// and returns the number of its entry: one that is there already, whoever made
// it, or ours. A new one goes behind the entry that this start came by, so that
// a machine that starts from the network goes on doing so.
func SetEntry(v Vars, p Partition, file string) (uint16, error) {
	path, err := appendPath(nil, p, file)
	if err != nil {
		return 0, err
	}
	n, found, err := slot(v, path)
	if err != nil {
		return 0, err
	}
	if !found {
		o := option{attributes: active, description: Description, path: path}
		if err := v.Set(global(bootName(n)), kept, o.append(nil)); err != nil {
			return 0, fmt.Errorf("efiboot: write %s: %w", bootName(n), err)
		}
	}
	return n, order(v, n)
}

// slot finds the entry with that path (found), or else the number for ours.
func slot(v Vars, path []byte) (n uint16, found bool, err error) {
	names, err := v.List()
	if err != nil {
		return 0, false, fmt.Errorf("efiboot: list variables: %w", err)
	}
	numbered := regexp.MustCompile(`^Boot[0-9A-F]{4}$`)
	taken := map[uint16]bool{}
	ours := -1
	for _, d := range names {
		if d.GUID != global("").GUID || !numbered.MatchString(d.Name) {
			continue
		}
		n, err := strconv.ParseUint(d.Name[4:], 16, 16)
		if err != nil {
			continue // the pattern has it that this cannot be
		}
		taken[uint16(n)] = true
		_, b, err := v.Get(d)
		if err != nil {
			return 0, false, fmt.Errorf("efiboot: read %s: %w", d.Name, err)
		}
		o, err := parseOption(b)
		if err != nil {
			continue // the firmware's own business
		}
		if bytes.Equal(o.path, path) && o.attributes&active != 0 {
			return uint16(n), true, nil
		}
		if o.description == Description {
			ours = int(n)
		}
	}
	if ours >= 0 {
		return uint16(ours), false, nil
	}
	for taken[n] {
		n++
	}
	return n, false, nil
}

// order puts the entry into BootOrder if it is not in there.
func order(v Vars, n uint16) error {
	list := numbers(v, "BootOrder")
	if slices.Contains(list, n) {
		return nil
	}
	at := len(list)
	if current := numbers(v, "BootCurrent"); len(current) == 1 {
		if i := slices.Index(list, current[0]); i >= 0 {
			at = i + 1
		}
	}
	if err := set(v, "BootOrder", slices.Insert(list, at, n)); err != nil {
		return err
	}
	return nil
}

// StartNext makes the firmware start the entry once, at the next reset.
func StartNext(v Vars, n uint16) error { return set(v, "BootNext", []uint16{n}) }

// numbers reads a variable that is a list of entries; none where there is none.
func numbers(v Vars, name string) []uint16 {
	_, b, err := v.Get(global(name))
	if err != nil {
		return nil
	}
	var list []uint16
	for ; len(b) >= 2; b = b[2:] {
		list = append(list, binary.LittleEndian.Uint16(b))
	}
	return list
}

func set(v Vars, name string, list []uint16) error {
	var b []byte
	for _, n := range list {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	if err := v.Set(global(name), kept, b); err != nil {
		return fmt.Errorf("efiboot: write %s: %w", name, err)
	}
	return nil
}
