package inventory_test

import (
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"huck/initramfs/inventory"
)

// smbios makes an entry point (SMBIOS 3.0, DSP0134 5.2.2) and a table with a
// type 1 structure and the end marker.
func smbios(uuid [16]byte, texts ...string) (entry, table []byte) {
	table = []byte{1, 27, 0x00, 0x01, 1, 2, 0, 3} // header; manufacturer, product, version, serial
	table = append(table, uuid[:]...)
	table = append(table, 6, 0, 0) // wake-up, SKU, family
	for _, s := range texts {
		table = append(append(table, s...), 0)
	}
	table = append(table, 0)
	table = append(table, 127, 4, 0xff, 0xfe, 0, 0)
	entry = append([]byte("_SM3_"), 0, 24, 3, 0, 0, 1, 0)
	entry = binary.LittleEndian.AppendUint32(entry, uint32(len(table)))
	entry = binary.LittleEndian.AppendUint64(entry, 0xe0000)
	sum := byte(0)
	for _, b := range entry {
		sum += b
	}
	entry[5] = -sum
	return entry, table
}

func write(t *testing.T, root, name string, content []byte) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func collect(t *testing.T, uuid [16]byte, serial string) (root string, roots inventory.Roots) {
	root = t.TempDir()
	entry, table := smbios(uuid, "ACME ", "Anvil 9", serial)
	write(t, root, "sys/firmware/dmi/tables/smbios_entry_point", entry)
	write(t, root, "sys/firmware/dmi/tables/DMI", table)
	write(t, root, "proc/meminfo", []byte("MemTotal:         157200 kB\nMemFree:  1 kB\n"))
	write(t, root, "proc/sys/kernel/random/boot_id", []byte("3d02c65b-7b8f\n"))
	return root, inventory.Roots{Sys: filepath.Join(root, "sys"), Proc: filepath.Join(root, "proc")}
}

func TestCollect(t *testing.T) {
	uuid := [16]byte{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	root, roots := collect(t, uuid, "SN-1")
	inv := roots.Collect(slog.New(slog.DiscardHandler))
	if inv.Manufacturer != "ACME" || inv.Product != "Anvil 9" || inv.Serial != "SN-1" || inv.SystemUUID != "00112233-4455-6677-8899-aabbccddeeff" {
		t.Errorf("SMBIOS: %+v", inv)
	}
	if inv.Memory != 157200<<10 || inv.BootID != "3d02c65b-7b8f" || inv.Firmware != "bios" || inv.CPUs < 1 {
		t.Errorf("got %+v", inv)
	}
	write(t, root, "sys/firmware/efi/runtime", nil)
	if inv := roots.Collect(slog.New(slog.DiscardHandler)); inv.Firmware != "uefi" {
		t.Errorf("firmware %q", inv.Firmware)
	}
}

// TestNothingTold: what stands for nothing identifies nobody.
func TestNothingTold(t *testing.T) {
	ones := [16]byte{}
	for i := range ones {
		ones[i] = 0xff
	}
	for _, uuid := range [][16]byte{{}, ones} {
		_, roots := collect(t, uuid, "To Be Filled By O.E.M.")
		if inv := roots.Collect(slog.New(slog.DiscardHandler)); inv.Serial != "" || inv.SystemUUID != "" {
			t.Errorf("serial %q, UUID %q", inv.Serial, inv.SystemUUID)
		}
	}
}

func TestNoSMBIOS(t *testing.T) {
	root := t.TempDir()
	inv := inventory.Roots{Sys: root, Proc: root}.Collect(slog.New(slog.DiscardHandler))
	if inv.Product != "" || inv.Memory != 0 || inv.Firmware != "bios" {
		t.Errorf("got %+v", inv)
	}
	write(t, root, "firmware/dmi/tables/smbios_entry_point", []byte("_SM3_"))
	write(t, root, "firmware/dmi/tables/DMI", []byte{1, 200, 0})
	if inv := (inventory.Roots{Sys: root, Proc: root}).Collect(slog.New(slog.DiscardHandler)); inv.Product != "" {
		t.Errorf("got %+v", inv)
	}
}
