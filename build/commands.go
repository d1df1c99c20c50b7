package main

import (
	"context"
	"path/filepath"
	"strings"

	"huck/build/initramfs"
	"huck/build/kernel"
	"huck/build/netboot"
	"huck/build/output"
	"huck/build/uki"
)

// Where Debian's packages linux-source-6.12, ipxe and systemd-boot-efi put things.
const (
	kernelSource = "/usr/src/linux-source-6.12.tar.xz"
	ipxeFolder   = "/usr/lib/ipxe"
	efiStub      = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

func (o options) vmlinuz() string   { return filepath.Join(o.out, "vmlinuz") }
func (o options) initramfs() string { return filepath.Join(o.out, "initramfs.cpio.zst") }
func (o options) uki() string       { return filepath.Join(o.out, "huck.efi") }

func buildKernel(ctx context.Context, o options, log logFunc) error {
	if o.kernel != "" {
		log("taking %s as it is", o.kernel)
		return output.Copy(o.vmlinuz(), o.kernel)
	}
	built, err := kernel.Build(ctx, kernel.Options{
		Source:    o.source,
		Fragments: filepath.Join(o.root, "kernel-config"),
		Cache:     filepath.Join(o.cache, "kernel"),
		Jobs:      o.jobs,
		Log:       log,
	})
	if err != nil {
		return err
	}
	return output.Copy(o.vmlinuz(), built)
}

func buildInitramfs(ctx context.Context, o options, log logFunc) error {
	return initramfs.Build(ctx, initramfs.Options{
		Root:     o.root,
		Firmware: o.firmware,
		Overlay:  o.overlay,
		Out:      o.initramfs(),
		Log:      log,
	})
}

// consoles are on the UKI's own line as well as in the kernel's: a console that an operator puts behind them wins, and
// an empty line would have the stub take whatever firmware left in its options.
const consoles = "console=tty0 console=ttyS0,115200"

func buildUKI(ctx context.Context, o options, log logFunc) error {
	line := strings.TrimSpace(consoles + " " + o.append)
	err := uki.Write(ctx, uki.Options{
		Stub: o.stub, Kernel: o.vmlinuz(), Initramfs: o.initramfs(), CommandLine: line,
		Key: o.sbKey, Certificate: o.sbCert, Out: o.uki(),
	})
	if err != nil {
		return err
	}
	signed := "not signed"
	if o.sbKey != "" {
		signed = "signed with " + o.sbKey
	}
	log("command line %q, %s", line, signed)
	return nil
}

func buildNetboot(_ context.Context, o options, log logFunc) error {
	files := []netboot.File{
		{Name: "vmlinuz", Source: o.vmlinuz()},
		{Name: "initramfs.cpio.zst", Source: o.initramfs()},
		{Name: "huck.efi", Source: o.uki()},
	}
	if !o.noIPXE {
		files = append(files, netboot.IPXE(o.ipxe)...)
	}
	return netboot.Write(filepath.Join(o.out, "netboot"), files, log)
}
