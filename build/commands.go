package main

import (
	"context"
	"path/filepath"
	"strings"

	"huck/build/initramfs"
	"huck/build/kernel"
	"huck/build/medium"
	"huck/build/netboot"
	"huck/build/output"
	"huck/build/uki"
	"huck/imager/api"
)

// Where Debian's packages linux-source-6.12, ipxe, systemd-boot-efi, isolinux and syslinux-common put things.
const (
	kernelSource = "/usr/src/linux-source-6.12.tar.xz"
	ipxeFolder   = "/usr/lib/ipxe"
	efiStub      = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	isolinux     = "/usr/lib/ISOLINUX"
	syslinux     = "/usr/lib/syslinux/modules/bios"
)

func (o options) vmlinuz() string   { return filepath.Join(o.out, "vmlinuz") }
func (o options) initramfs() string { return filepath.Join(o.out, "initramfs.cpio.zst") }
func (o options) tools() string     { return filepath.Join(o.out, "tools.cpio.zst") }
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
	if o.ready != "" {
		log("taking %s as it is", o.ready)
		return output.Copy(o.initramfs(), o.ready)
	}
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

// ukiOptions are those of the UKI in the netboot folder; a medium's has more in it.
func (o options) ukiOptions() uki.Options {
	return uki.Options{
		Stub: o.stub, Kernel: o.vmlinuz(), Initramfs: o.initramfs(), CommandLine: consoles,
		Key: o.sbKey, Certificate: o.sbCert, Out: o.uki(),
	}
}

func (o options) signed() string {
	if o.sbKey == "" {
		return "not signed"
	}
	return "signed with " + o.sbKey
}

func buildUKI(ctx context.Context, o options, log logFunc) error {
	u := o.ukiOptions()
	u.CommandLine = strings.TrimSpace(u.CommandLine + " " + o.append)
	if err := uki.Write(ctx, u); err != nil {
		return err
	}
	log("command line %q, %s", u.CommandLine, o.signed())
	return nil
}

func buildTools(ctx context.Context, o options, log logFunc) error {
	if o.noImager {
		return nil
	}
	return initramfs.BuildTools(ctx, initramfs.Options{Root: o.root, Out: o.tools(), Log: log})
}

func buildMedium(ctx context.Context, o options, log logFunc) error {
	iso, tools := filepath.Join(o.out, "huck.iso"), o.tools()
	if o.noImager {
		tools = ""
	}
	err := medium.Write(ctx, medium.Options{
		UKI: o.ukiOptions(), Append: o.append, Tools: tools,
		Image: o.image, Assign: api.Assignment{Disk: o.disk, Then: api.Then(o.then)}, Unattended: o.unattended,
		ISOLINUX: isolinux, SYSLINUX: syslinux, Out: iso, Log: log,
	})
	if err != nil {
		return err
	}
	log("%s, %s: write it to a stick as it is (dd, cp) or burn it", iso, o.signed())
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
