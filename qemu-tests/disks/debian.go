package disks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"huck/qemu-tests/proc"
)

// Where things are on the Debian disk, what it is called and how to log in.
const (
	DebianHostname  = "huck-debian" // of the layout Ext4
	DebianUser      = "root"
	DebianPassword  = "huck"
	DebianSize      = 1024 * mib
	DebianRootStart = 129 * mib
	DebianRootSize  = DebianSize - DebianRootStart - 1*mib

	espStart, espSize   = 2 * mib, 63 * mib
	swapStart, swapSize = 65 * mib, 64 * mib
	debianSuite         = "bookworm"

	rootUUID = "64656269-616e-4000-8000-0000726f6f74"
	swapUUID = "64656269-616e-4000-8000-000073776170"
	espUUID  = "6465-6269"

	recipe = 2 // counted up when the disk is made in another way
)

// Debian makes a disk with a real Debian 12 on it, and returns the path of the
// finished disk in the cache folder; it must not be written to. A second call
// with the same inputs only looks it up. It takes two minutes, root, and
// the package mirror of the host's own configuration.
//
// The disk is a GPT with a BIOS boot partition, an ESP and what the layout
// says. The system on it is booted once, to let its own grub-install and
// update-grub do what they do on a real machine.
func Debian(ctx context.Context, cache string, l Layout, log *slog.Logger) (string, error) {
	mirror, err := mirrorURL(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("disks: %v", err)
	}
	path := filepath.Join(cache, fmt.Sprintf("%s-%x.raw", l.name, debianKey(mirror, l)))
	unlock, err := lock(filepath.Join(cache, l.name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	log.Info("making a real Debian disk; about two minutes, once", "mirror", mirror, "layout", l.name)
	work, err := os.MkdirTemp(cache, "making-"+l.name+"-")
	if err != nil {
		return "", fmt.Errorf("disks: %v", err)
	}
	defer os.RemoveAll(work)
	d := debian{work: work, tree: filepath.Join(work, "tree"), disk: filepath.Join(work, "disk"), mirror: mirror, log: log, Layout: l}
	for _, step := range []func(context.Context) error{d.bootstrap, d.configure, d.shrink, d.assemble, d.firstBoot} {
		if err := step(ctx); err != nil {
			return "", fmt.Errorf("disks: make Debian: %w", err)
		}
	}
	if err := l.Check(ctx, d.disk); err != nil {
		return "", err
	}
	if err := os.Rename(d.disk, path); err != nil {
		return "", fmt.Errorf("disks: %v", err)
	}
	return path, nil
}

// debianKey hashes all that decides what is on the disk. Packages of a stable
// release change little; a point release is no reason to make it again.
func debianKey(mirror string, l Layout) []byte {
	h := sha256.New()
	fmt.Fprintln(h, recipe, mirror, debianSuite, debianPackages, DebianSize, DebianRootStart, espStart, espSize, swapStart, swapSize)
	fmt.Fprintf(h, "%s %s %v %s", l.packages, l.fill, l.lvm, lvmScript)
	for _, f := range l.files() {
		fmt.Fprintln(h, f.name, f.mode, f.text)
	}
	fmt.Fprintln(h, shrinkScript)
	return h.Sum(nil)[:8]
}

// mirrorURL asks apt where this machine gets Debian's packages from.
func mirrorURL(ctx context.Context) (string, error) {
	out, err := proc.Run(ctx, proc.Command{Args: []string{"apt-get", "indextargets", "--format", "$(IDENTIFIER) $(CODENAME) $(COMPONENT) $(REPO_URI)"}})
	if err != nil {
		return "", fmt.Errorf("disks: ask apt for its mirror: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == "Packages" && f[1] == debianSuite && f[2] == "main" {
			return f[3], nil
		}
	}
	return "", fmt.Errorf("disks: apt's sources name no %s main; the Debian disk needs one", debianSuite)
}

// lock waits for the lock file and returns what lets it go.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("disks: %v", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("disks: lock %s: %v", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
