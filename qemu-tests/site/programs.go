// Package site runs a whole Huck site for VM tests, the demo and the
// benchmark: the real programs, built from this tree, in a private network
// with virtual machines.
package site

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// Programs are what a site runs, as files.
type Programs struct {
	// Imager, Bootserver and TinyInit are built from the tree.
	Imager, Bootserver, TinyInit string
	// Netboot is the folder with kernel, initramfs and UKI.
	Netboot string

	root string // the checkout
	dir  string // where all this is
}

// Kernel returns the appliance's kernel, which the tiny system uses as well.
func (p Programs) Kernel() string { return filepath.Join(p.Netboot, "vmlinuz") }

// Initramfs returns the appliance's initramfs.
func (p Programs) Initramfs() string { return filepath.Join(p.Netboot, "initramfs.cpio.zst") }

// UKI returns the appliance in one file for UEFI.
func (p Programs) UKI() string { return filepath.Join(p.Netboot, "huck.efi") }

// MediumWith builds a stick and CD of the kernel and the initramfs that are
// there, without the imager in its rescue shell: that takes long to build.
func (p Programs) MediumWith(ctx context.Context, options ...string) (string, error) {
	out, err := p.Build(ctx, append([]string{"medium", "--no-imager", "--kernel", p.Kernel(), "--initramfs", p.Initramfs()}, options...)...)
	return filepath.Join(out, "huck.iso"), err
}

// Build has the build program make something in a folder of its own, as by
// `go run ./build ARGS`, for virtual machines, and returns the folder.
func (p Programs) Build(ctx context.Context, args ...string) (string, error) {
	out, err := os.MkdirTemp(p.dir, args[0]+"-")
	if err != nil {
		return "", fmt.Errorf("site: %v", err)
	}
	all := append([]string{"go", "run", "./build"}, append(args, "--out", out, "--append", vm.KernelArgs)...)
	_, err = proc.Run(ctx, proc.Command{Args: all, Dir: p.root, Env: append(os.Environ(), "CGO_ENABLED=0")})
	if err != nil {
		return "", fmt.Errorf("site: %w", err)
	}
	return out, nil
}

// NetbootBytes returns the size of what each machine loads to boot.
func (p Programs) NetbootBytes() (int64, error) {
	var sum int64
	for _, name := range []string{p.Kernel(), p.Initramfs()} {
		info, err := os.Stat(name)
		if err != nil {
			return 0, fmt.Errorf("site: %v", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// Build builds the programs, kernel, initramfs and UKI into dir. The UKI's own
// command line is right for virtual machines: firmware hands over no other.
func Build(ctx context.Context, dir string) (Programs, error) {
	out, err := proc.Run(ctx, proc.Command{Args: []string{"go", "list", "-m", "-f", "{{.Dir}}"}})
	if err != nil {
		return Programs{}, fmt.Errorf("site: find the source: %w", err)
	}
	root := strings.TrimSpace(string(out))
	p := Programs{
		Imager: filepath.Join(dir, "imager"), Bootserver: filepath.Join(dir, "bootserver"), TinyInit: filepath.Join(dir, "tinyinit"),
		root: root, dir: dir,
	}
	env := append(os.Environ(), "CGO_ENABLED=0")
	for _, args := range [][]string{
		{"go", "build", "-o", p.Imager, "./imager"},
		{"go", "build", "-o", p.Bootserver, "./bootserver"},
		{"go", "build", "-o", p.TinyInit, "./qemu-tests/tinyos/init"},
	} {
		if _, err := proc.Run(ctx, proc.Command{Args: args, Dir: root, Env: env}); err != nil {
			return Programs{}, fmt.Errorf("site: %w", err)
		}
	}
	made, err := p.Build(ctx, "netboot")
	p.Netboot = filepath.Join(made, "netboot")
	return p, err
}
