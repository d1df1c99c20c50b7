package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// options are the flags of all commands: they are few, and each command takes what it needs.
type options struct {
	root     string // the checkout
	out      string
	cache    string
	source   string
	kernel   string
	ready    string // initramfs
	firmware string
	overlay  string
	ipxe     string
	noIPXE   bool
	stub     string
	append   string
	sbKey    string
	sbCert   string

	// of a medium
	image      string
	disk       string
	then       string
	unattended bool
	noImager   bool
	jobs       int
}

// fromEnv names the variable that stands in for a flag that is not given.
var fromEnv = []struct{ flag, variable string }{
	{"cache", "HUCK_CACHE"}, {"source", "KERNEL_SOURCE"}, {"kernel", "KERNEL"}, {"firmware", "FIRMWARE"},
	{"overlay", "OVERLAY"}, {"ipxe", "IPXE"}, {"stub", "STUB"}, {"append", "APPEND"},
	{"sb-key", "SB_KEY"}, {"sb-cert", "SB_CERT"}, {"image", "IMAGE"}, {"disk", "DISK"}, {"then", "THEN"},
}

func (o *options) flagSet() *flag.FlagSet {
	f := flag.NewFlagSet("build", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.cache, "cache", "", "`folder` for built kernels, outside the tree (HUCK_CACHE; default the user's cache folder + /huck)")
	f.StringVar(&o.source, "source", "", "kernel source `tarball` (KERNEL_SOURCE; default "+kernelSource+", Debian's)")
	f.StringVar(&o.kernel, "kernel", "", "take this ready `bzImage` and build none (KERNEL)")
	f.StringVar(&o.ready, "initramfs", "", "take this ready `archive` and build none")
	f.StringVar(&o.firmware, "firmware", "", "`folder` to ship as /lib/firmware in the initramfs (FIRMWARE)")
	f.StringVar(&o.overlay, "overlay", "", "`folder` laid over the initramfs' root: CA, public keys (OVERLAY)")
	f.StringVar(&o.ipxe, "ipxe", "", "`folder` with undionly.kpxe, snponly.efi, ipxe.efi (IPXE; default "+ipxeFolder+")")
	f.BoolVar(&o.noIPXE, "no-ipxe", false, "leave iPXE out of the netboot folder")
	f.StringVar(&o.stub, "stub", "", "systemd's linuxx64.efi.stub, for the UKI: a `file` (STUB; default "+efiStub+")")
	f.StringVar(&o.append, "append", "", "`words` for the UKI's kernel command line (APPEND)")
	f.StringVar(&o.sbKey, "sb-key", "", "private key to sign the UKI with for Secure Boot, a `file` in PEM (SB_KEY)")
	f.StringVar(&o.sbCert, "sb-cert", "", "its certificate, a `file` in PEM (SB_CERT)")
	f.StringVar(&o.image, "image", "", "what the medium installs without a server: a `file` that imager import takes (IMAGE)")
	f.StringVar(&o.disk, "disk", "", "`rule` that names the disk for it (DISK; default only)")
	f.StringVar(&o.then, "then", "", "kexec, reboot, poweroff or wait, when it is installed (THEN; default reboot)")
	f.BoolVar(&o.unattended, "unattended", false, "install it without a person's word at the console")
	f.BoolVar(&o.noImager, "no-imager", false, "leave the imager out of the medium's rescue shell")
	f.StringVar(&o.out, "out", "", "`folder` for results (default build/out in the checkout)")
	f.IntVar(&o.jobs, "jobs", runtime.NumCPU(), "how many compilers at once")
	return f
}

// complete fills in from the environment and the defaults what no flag set.
func (o *options) complete(e env) error {
	value := map[string]*string{
		"cache": &o.cache, "source": &o.source, "kernel": &o.kernel, "firmware": &o.firmware,
		"overlay": &o.overlay, "ipxe": &o.ipxe, "stub": &o.stub, "append": &o.append,
		"sb-key": &o.sbKey, "sb-cert": &o.sbCert, "image": &o.image, "disk": &o.disk, "then": &o.then,
	}
	for _, v := range fromEnv {
		if p := value[v.flag]; *p == "" {
			*p = e.getenv(v.variable)
		}
	}
	var err error
	if o.root, err = findRoot(); err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join(o.root, "build", "out")
	}
	if o.cache == "" {
		if o.cache, err = defaultCache(e); err != nil {
			return err
		}
	}
	if o.source == "" {
		o.source = kernelSource
	}
	if o.ipxe == "" {
		o.ipxe = ipxeFolder
	}
	if o.stub == "" {
		o.stub = efiStub
	}
	if o.disk == "" {
		o.disk = "only"
	}
	if o.then == "" {
		o.then = "reboot"
	}
	return nil
}

func defaultCache(e env) (string, error) {
	if dir := e.getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "huck"), nil
	}
	if home := e.getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache", "huck"), nil
	}
	return "", errors.New("no cache folder: set HUCK_CACHE, XDG_CACHE_HOME or HOME, or give --cache")
}

// findRoot climbs from the working directory to the checkout.
func findRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "kernel-config")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the checkout (no kernel-config folder above it): change into it first", start)
		}
	}
}

func printHelp(w io.Writer, f *flag.FlagSet) {
	fmt.Fprint(w, `usage: go run ./build COMMAND [flags]

  kernel      the appliance's kernel              build/out/vmlinuz
  initramfs   its only program and root folder    build/out/initramfs.cpio.zst
  uki         both in one file for UEFI           build/out/huck.efi
  netboot     all three, iPXE and boot.json       build/out/netboot/
  medium      a stick and a CD in one             build/out/huck.iso
  all         everything above but the medium

flags (they win over the variables in brackets)
`)
	f.SetOutput(w)
	f.PrintDefaults()
	fmt.Fprint(w, "\nexit codes: 0 done, 1 failed, 2 usage, 130 interrupted\n")
}
