package main

import (
	"context"
	"path/filepath"

	"huck/build/initramfs"
	"huck/build/kernel"
	"huck/build/netboot"
	"huck/build/output"
)

// Where Debian's packages linux-source-6.12 and ipxe put things.
const (
	kernelSource = "/usr/src/linux-source-6.12.tar.xz"
	ipxeFolder   = "/usr/lib/ipxe"
)

func (o options) vmlinuz() string   { return filepath.Join(o.out, "vmlinuz") }
func (o options) initramfs() string { return filepath.Join(o.out, "initramfs.cpio.zst") }

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

func buildNetboot(_ context.Context, o options, log logFunc) error {
	files := []netboot.File{
		{Name: "vmlinuz", Source: o.vmlinuz()},
		{Name: "initramfs.cpio.zst", Source: o.initramfs()},
	}
	if !o.noIPXE {
		files = append(files, netboot.IPXE(o.ipxe)...)
	}
	return netboot.Write(filepath.Join(o.out, "netboot"), files, log)
}
