// Package tree makes a bootable disk of a file tree: a GPT with an EFI system
// partition and a root filesystem, made by the distribution's own mkfs, without
// root rights and without loop devices. The kernel and its initrd are found in
// the tree, and a Boot Loader Specification entry is written where it has none.
//
// mkfs puts one file behind the other: one more moves all that follow, and an
// image of the disk shares nothing with that of before. So the disk can be made of
// a parent's instead, whose root filesystem the kernel mounts and is brought up to
// date, files that are the same left where they are. That takes root.
//
// The tree is a folder, a tar archive, plain or compressed, or an OCI
// image layout. Root filesystems other than ext4 are not made yet, and refused
// by name. A layout says what disk to make; only disk_size must be in it:
//
//	{
//	  "disk_size": 4294967296,
//	  "esp_size": 134217728,
//	  "root_filesystem": "ext4",
//	  "root_uuid": "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11",
//	  "root_label": "root",
//	  "cmdline": "console=ttyS0 quiet"
//	}
package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"huck/imager/disk"
	"huck/imager/image"
)

const (
	mib = 1 << 20
	// sector is what the tools below count in, in bytes.
	sector = 512
	// espDefault is room for a boot loader, a kernel and an initrd, and less
	// than FAT32 would need: firmware reads FAT16 as well (UEFI 2.10, 13.3).
	espDefault = 128 * mib
	// rootSmallest is what mkfs.ext4 makes a filesystem with a journal of.
	rootSmallest = 16 * mib
)

// Refused tells why no disk is made of a tree.
type Refused = disk.Refused

// Layout is the disk to be made. Its JSON is the file that --layout names.
type Layout struct {
	// DiskSize is in bytes, a multiple of 1 MiB.
	DiskSize int64 `json:"disk_size"`
	// ESPSize is that of the EFI system partition, in bytes, a multiple of
	// 1 MiB; 0 is 128 MiB. The root filesystem has the rest.
	ESPSize int64 `json:"esp_size"`
	// RootFilesystem is ext4, also if empty.
	RootFilesystem string `json:"root_filesystem"`
	// RootUUID and RootLabel are the root filesystem's, as the tree's fstab may
	// name them. By default the one is random, or the parent's, and the other
	// "root".
	RootUUID  string `json:"root_uuid"`
	RootLabel string `json:"root_label"`
	// Cmdline is the kernel's command line but for root=.
	Cmdline string `json:"cmdline"`
}

var uuidRE = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// ParseLayout reads a layout's JSON, fills in what it leaves open and refuses
// what cannot be made. A member it does not know is an error.
func ParseLayout(r io.Reader) (Layout, error) {
	var l Layout
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, fmt.Errorf("tree: layout: %v", err)
	}
	if l.ESPSize == 0 {
		l.ESPSize = espDefault
	}
	if l.RootFilesystem == "" {
		l.RootFilesystem = "ext4"
	}
	if l.RootLabel == "" {
		l.RootLabel = "root"
	}
	return l, l.check()
}

func (l *Layout) check() error {
	bad := func(format string, a ...any) error { return fmt.Errorf("tree: layout: "+format, a...) }
	switch {
	case l.RootFilesystem != "ext4":
		return bad("root_filesystem %q: this version makes ext4 only", l.RootFilesystem)
	case l.DiskSize%mib != 0 || l.ESPSize%mib != 0:
		return bad("disk_size and esp_size are multiples of 1048576")
	case l.ESPSize < mib || l.DiskSize > 1<<44:
		return bad("esp_size %d and disk_size %d: at least 1 MiB and at most 16 TiB", l.ESPSize, l.DiskSize)
	case l.DiskSize < l.ESPSize+rootSmallest+2*mib:
		return bad("disk_size %d leaves less than %d for the root filesystem", l.DiskSize, rootSmallest)
	case l.RootUUID != "" && !uuidRE.MatchString(l.RootUUID):
		return bad("root_uuid %q is none, in lower case", l.RootUUID)
	case len(l.RootLabel) > 16 || strings.ContainsFunc(l.RootLabel, unprintable):
		return bad("root_label %q: at most 16 bytes, none of them a control character", l.RootLabel)
	case strings.ContainsFunc(l.Cmdline, unprintable):
		return bad("cmdline %q has a control character", l.Cmdline)
	}
	return nil
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// newUUID returns a random UUID (RFC 9562, 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// rootStart is the offset of the root partition, in bytes.
func (l *Layout) rootStart() int64 { return mib + l.ESPSize }

// rootSize leaves the last mebibyte to the backup GPT.
func (l *Layout) rootSize() int64 { return l.DiskSize - mib - l.rootStart() }

// Config tells what to make a disk of.
type Config struct {
	// Tree is a folder, an OCI image layout, or a tar archive, which may be
	// compressed by gzip or
	// zstd. It is only read.
	Tree   string
	Layout Layout
	// Parent, if set, is the manifest of the image whose disk stands at the path
	// of the one to be made, and is to become it.
	Parent *image.Manifest
	// Progress, if set, is called by one goroutine at a time with the bytes done
	// and to do of a step.
	Progress func(step string, done, total int64)
	// Log receives warnings. Nil discards them.
	Log *slog.Logger
}

// Make makes the disk in a file at path, a new one unless there is a parent; what
// it needs meanwhile stands beside it, and is gone when it returns. A disk that it
// could not complete is removed.
func Make(ctx context.Context, cfg Config, path string) (err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Layout.check(); err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(path), "huck-tree-*")
	if err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	defer os.RemoveAll(work) // copies; nothing is lost with them
	if cfg.Parent == nil {
		dev, err := disk.Create(path, cfg.Layout.DiskSize)
		if err != nil {
			return err
		}
		if err := dev.Close(); err != nil {
			return fmt.Errorf("tree: %w", err)
		}
	}
	m := &maker{cfg: cfg, l: cfg.Layout, disk: path, work: work}
	if err := m.make(ctx); err != nil {
		os.Remove(path) // of no use to anyone; the error says why
		if ctx.Err() != nil {
			return fmt.Errorf("tree: %w", ctx.Err())
		}
		return fmt.Errorf("tree: make a disk of %s: %w", cfg.Tree, err)
	}
	return nil
}

// maker makes one disk.
type maker struct {
	cfg        Config
	l          Layout
	disk, work string // absolute paths
}

// make is the whole story.
func (m *maker) make(ctx context.Context) error {
	part, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	src, err := m.open(ctx)
	if err != nil {
		return err
	}
	boot, err := bootOf(src.dir)
	if err != nil {
		return err
	}
	if err := m.makeRoot(ctx, src, boot, part); err != nil {
		return err
	}
	return m.makeESP(ctx, src, boot, part)
}

// prepare settles what the layout leaves open and sees to it that the disk has
// its table. It returns the root partition's UUID.
func (m *maker) prepare(ctx context.Context) (part string, err error) {
	if m.cfg.Parent != nil {
		return m.takeParent()
	}
	if m.l.RootUUID == "" {
		m.l.RootUUID = newUUID()
	}
	part = newUUID()
	return part, m.partition(ctx, part)
}

// partition writes the GPT. The root partition has the type of the
// Discoverable Partitions Specification for x86-64.
func (m *maker) partition(ctx context.Context, part string) error {
	script := fmt.Sprintf("label: gpt\nunit: sectors\n"+
		"start=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00C93EC93BC9, name=ESP\n"+
		"start=%d, size=%d, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root, uuid=%s\n",
		mib/sector, m.l.ESPSize/sector, m.l.rootStart()/sector, m.l.rootSize()/sector, part)
	_, err := run(ctx, strings.NewReader(script), "sfdisk", "--quiet", m.disk)
	return err
}

// makeRoot makes the root filesystem, of what the tree has and what a tar
// archive says about files that only root could have unpacked.
func (m *maker) makeRoot(ctx context.Context, src *source, boot bootFiles, part string) error {
	fill := m.fill
	if m.cfg.Parent != nil {
		fill = m.update
	}
	if err := fill(ctx, src); err != nil {
		return err
	}
	if boot.entry == "" && boot.loader == "" {
		entry := filepath.Join(m.work, "entry")
		if err := os.WriteFile(entry, []byte(boot.text(m.l, part, "/")), 0o644); err != nil {
			return err
		}
		for _, dir := range []string{"boot/loader", "boot/loader/entries"} {
			if _, err := os.Stat(filepath.Join(src.dir, dir)); errors.Is(err, fs.ErrNotExist) {
				src.later("mkdir /" + dir)
			}
		}
		src.later("cd /boot/loader/entries", "write "+quote(entry)+" huck.conf", "cd /")
		m.cfg.Log.Warn("tree: there is no boot loader in it: the disk is started by kexec, not by firmware", "tree", m.cfg.Tree)
	}
	return m.attributes(ctx, src)
}

// fill makes the root filesystem with what src has.
func (m *maker) fill(ctx context.Context, src *source) error {
	end := m.filling(src.dir)
	_, err := run(ctx, nil, "mkfs.ext4", "-q", "-F", "-b", "4096", "-U", m.l.RootUUID, "-L", m.l.RootLabel, "-d", src.dir,
		"-E", fmt.Sprintf("offset=%d", m.l.rootStart()), m.disk, fmt.Sprintf("%dK", m.l.rootSize()/1024))
	end(err == nil)
	return err
}

// run runs a program and returns what it said on standard error.
func run(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	return runTo(ctx, stdin, nil, name, args...)
}

// runTo is run for a program whose output goes to stdout.
func runTo(ctx context.Context, stdin io.Reader, stdout io.Writer, name string, args ...string) (string, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", &Refused{Device: name, Why: "it is not in PATH: install the packages fdisk, e2fsprogs, dosfstools and mtools"}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %.500s", name, err, text(&said))
	}
	return said.String(), nil
}

// text is what a program said, in one line.
func text(said *bytes.Buffer) string {
	return strings.ReplaceAll(strings.TrimSpace(said.String()), "\n", "; ")
}
