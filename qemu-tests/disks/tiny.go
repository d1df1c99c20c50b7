package disks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"huck/qemu-tests/vm"
)

// Where things are on the tiny system's disk, and what it is called.
const (
	TinyHostname  = "tiny"
	TinySize      = 96 * mib
	TinyRootStart = 1 * mib
	TinyRootSize  = TinySize - 2*mib

	tinyDisk = "74696e79-0000-4000-8000-000000000000"
	tinyPart = "74696e79-0000-4000-8000-000000000001"
	tinyFile = 96 << 10
)

// TinyFiles is the number of files below /data for a payload in bytes.
func TinyFiles(payload int64) int { return int(payload / tinyFile) }

// Tiny says what to put on a tiny system's disk.
type Tiny struct {
	// Init and Kernel are files: the program of qemu-tests/tinyos/init and a
	// kernel with virtio-blk, ext4 and a serial console built in.
	Init, Kernel string
	// Payload is the number of incompressible bytes below /data, at most 64 MiB.
	Payload int64
	// Seed makes the payload of one disk differ from that of another.
	Seed uint64
	// Panics is a system whose kernel panics at once, where kexec starts it.
	Panics bool
	// Inodes is how many inodes the root gets, their tables written: long runs of
	// zeros that are in use. 0 leaves them to mkfs.
	Inodes int
	// FATSector is the sector size in bytes of the EFI system partition's filesystem,
	// for disks with such sectors; 0 is 512.
	FATSector int
}

// BIOSWords are what a BIOS that starts the tiny system's disk says on the
// serial port, and no more: there is no boot loader.
const BIOSWords = "started by the BIOS"

// bootCode is a boot sector's code that writes text to the serial port at 0x3f8
// and halts. A BIOS loads it to 0x7c00.
func bootCode(text string) []byte {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xbe, 0x20, 0x7c, // mov si, 0x7c20
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xfc,       // cld
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz end
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xf4,       // end: hlt
		0xeb, 0xfd, // jmp end
	}
	code = append(code, make([]byte, 0x20-len(code))...)
	return append(code, "\r\n"+text+"\r\n\x00"...)
}

// Write makes the disk at path: GPT, one ext4 with the kernel, a BLS entry, the
// payload and nothing else. Temporary files stand beside it while it runs.
func (t Tiny) Write(ctx context.Context, path string) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "tiny-")
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	defer os.RemoveAll(tree)
	if err := t.fill(tree); err != nil {
		return fmt.Errorf("disks: tiny system: %v", err)
	}
	root := path + ".root"
	defer os.Remove(root)
	if err := blank(root, TinyRootSize); err != nil {
		return err
	}
	if err := runAll(ctx, t.mkfs(tree, root)); err != nil {
		return err
	}
	err = writeDisk(ctx, path, TinySize, tinyDisk, []partition{
		{start: TinyRootStart, size: TinyRootSize, kind: "L", name: "root", uuid: tinyPart, content: root},
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("disks: %v", err)
	}
	_, err = f.WriteAt(bootCode(BIOSWords), 0)
	return errors.Join(err, f.Close())
}

// mkfs is the command that makes the root of a tree in a file.
func (t Tiny) mkfs(tree, root string) []string {
	args := []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "tiny", "-d", tree}
	if t.Inodes != 0 {
		args = append(args, "-N", fmt.Sprint(t.Inodes), "-E", "lazy_itable_init=0")
	}
	return append(args, root)
}

// fill makes the tree and says how to boot it.
func (t Tiny) fill(tree string) error {
	if err := t.Tree(tree); err != nil {
		return err
	}
	entries := filepath.Join(tree, "boot/loader/entries")
	if err := os.MkdirAll(entries, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(entries, "tiny.conf"), []byte(t.entry("/boot/vmlinuz")), 0o644)
}

// entry is the BLS entry that starts the system with a kernel.
func (t Tiny) entry(kernel string) string {
	root := "PARTUUID=" + tinyPart + " rootwait"
	if t.Panics {
		root = "/dev/none"
	}
	return "title Tiny\nversion 1\nlinux " + kernel + "\noptions root=" + root + " ro " + TinyCmdline + "\n"
}

// TinyCmdline is the kernel's command line but for what it says of the root.
const TinyCmdline = "console=ttyS0 quiet panic=5 init=/sbin/init " + vm.KernelArgs

// Tree puts the system's files into a folder, without a word of how to boot it.
func (t Tiny) Tree(tree string) error {
	for _, dir := range []string{"boot", "sbin", "etc", "dev", "proc", "sys", "data"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte(TinyHostname+"\n"), 0o644); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(tree, "sbin/init"), t.Init, 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(tree, "boot/vmlinuz"), t.Kernel, 0o644); err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{byte(t.Seed), byte(t.Seed >> 8)})
	content := make([]byte, tinyFile)
	for i := range TinyFiles(t.Payload) {
		_, _ = random.Read(content) // never fails
		if err := os.WriteFile(filepath.Join(tree, "data", fmt.Sprintf("%04d", i)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
