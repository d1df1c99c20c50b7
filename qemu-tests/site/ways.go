package site

import (
	"context"
	"path/filepath"
	"strings"

	"huck/qemu-tests/vm"
)

// Way is a way into a machine, from power-on to the appliance.
type Way struct {
	Name     string
	Firmware vm.Firmware
	Boot     vm.Boot
	NIC      vm.NIC
	// Proof is something that only this way leaves on the console.
	Proof string
}

// Ways are those into a machine that is left as it is and takes what the boot
// server offers, or the medium.
var Ways = []Way{
	{Name: "BIOS iPXE", Proof: "Huck: starting the appliance from http"},
	{Name: "UEFI PXE", Firmware: vm.UEFI, NIC: vm.BarePXE, Proof: "NBP filename is huck.efi"},
	{Name: "UEFI HTTP Boot", Firmware: vm.UEFI, NIC: vm.BareHTTP, Proof: "/boot/huck.efi"},
	{Name: "UEFI iPXE", Firmware: vm.UEFI, Proof: "Huck: starting the appliance from http"},
	{Name: "BIOS USB", Boot: vm.USB, Proof: "ISOLINUX"},
	{Name: "UEFI USB", Firmware: vm.UEFI, Boot: vm.USB, Proof: "EFI stub"},
	{Name: "BIOS CD", Boot: vm.CD, Proof: "ISOLINUX"},
	{Name: "UEFI CD", Firmware: vm.UEFI, Boot: vm.CD, Proof: "EFI stub"},
}

// PlugWay plugs in a machine with an empty disk of size bytes that is started
// in this way; medium is the stick or CD, for those that take one.
func (s *Site) PlugWay(ctx context.Context, w Way, name string, size int64, medium string) (*vm.Machine, error) {
	disk, err := s.Disk(name, size)
	if err != nil {
		return nil, err
	}
	cfg := vm.Config{Name: name, Network: s.Network, Disks: []string{disk}, Firmware: w.Firmware, Boot: w.Boot, NIC: w.NIC}
	if w.Boot == vm.USB || w.Boot == vm.CD {
		cfg.Medium = medium
	}
	return s.Plug(ctx, cfg)
}

// FileName is the way's name as part of a file's.
func (w Way) FileName() string { return strings.ToLower(strings.ReplaceAll(w.Name, " ", "-")) }

// Medium builds the stick and CD that carries no image.
func (p Programs) Medium(ctx context.Context) (string, error) {
	out, err := p.Build(ctx, "medium", "--kernel", p.Kernel(), "--initramfs", p.Initramfs())
	return filepath.Join(out, "huck.iso"), err
}
