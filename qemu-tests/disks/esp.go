package disks

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Where things are on the disk of the tiny system for UEFI.
const (
	TinyESPSize = 32 * mib

	tinyESPPart = "74696e79-0000-4000-8000-000000000002"
)

// WriteUEFI makes the disk at path as Write does, but as UEFI has it: kernel
// and BLS entry are on an EFI system partition, the root has neither. What the
// firmware would start is the kernel itself, without a command line and thus
// without a root: the disk is good for kexec only.
func (t Tiny) WriteUEFI(ctx context.Context, path string) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "tiny-")
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer os.RemoveAll(tree)
	if err := t.fill(tree); err != nil {
		return fmt.Errorf("disks: tiny system: %v", err)
	}
	esp, root := path+".esp", path+".root"
	defer os.Remove(esp)
	defer os.Remove(root)
	if err := t.fillESP(ctx, esp, filepath.Join(tree, "boot")); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(tree, "boot")); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	const rootStart = TinyRootStart + TinyESPSize
	if err := blank(root, TinySize-rootStart-mib); err != nil {
		return err
	}
	if err := runAll(ctx, t.mkfs(tree, root)); err != nil {
		return err
	}
	return writeDisk(ctx, path, TinySize, tinyDisk, []partition{
		{start: TinyRootStart, size: TinyESPSize, kind: "U", name: "esp", uuid: tinyESPPart, content: esp},
		{start: rootStart, size: TinySize - rootStart - mib, kind: "L", name: "root", uuid: tinyPart, content: root},
	})
}

// fillESP makes the EFI system partition in a file.
func (t Tiny) fillESP(ctx context.Context, esp, boot string) error {
	entry := t.entry("/vmlinuz")
	conf := filepath.Join(boot, "esp.conf")
	if err := os.WriteFile(conf, []byte(entry), 0o644); err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	if err := blank(esp, TinyESPSize); err != nil {
		return err
	}
	return runAll(ctx,
		[]string{"mkfs.vfat", "-F", "16", "-S", fmt.Sprint(cmp.Or(t.FATSector, sector)), "-s", fmt.Sprint(max(1, 2048/cmp.Or(t.FATSector, sector))), "-n", "ESP", "-i", "74696e79", esp},
		[]string{"mmd", "-i", esp, "::/loader", "::/loader/entries", "::/EFI", "::/EFI/BOOT"},
		[]string{"mcopy", "-i", esp, conf, "::/loader/entries/tiny.conf"},
		[]string{"mcopy", "-i", esp, t.Kernel, "::/vmlinuz"},
		[]string{"mcopy", "-i", esp, t.Kernel, "::/EFI/BOOT/BOOTX64.EFI"})
}
