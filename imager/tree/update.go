package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"huck/imager/disk"
)

// CheckParent reports what Make refuses about cfg.Parent, before there is a disk of
// it.
func CheckParent(cfg Config) error {
	_, err := (&maker{cfg: cfg, l: cfg.Layout}).takeParent()
	return err
}

// takeParent makes the disk's layout the parent's where it leaves that open, and
// refuses one that it contradicts. It returns the root partition's UUID.
func (m *maker) takeParent() (part string, err error) {
	man := m.cfg.Parent
	refuse := func(format string, a ...any) (string, error) {
		return "", &Refused{Device: m.cfg.Tree, Why: "the parent's disk is not of this layout: " + fmt.Sprintf(format, a...)}
	}
	if man.Table != "gpt" || man.SectorSize != sector || len(man.Partitions) != 2 {
		return refuse("it has %d partitions (%s, sectors of %d bytes), not two (gpt, %d)", len(man.Partitions), man.Table, man.SectorSize, sector)
	}
	esp, root := man.Partitions[0], man.Partitions[1]
	switch {
	case man.DiskSize != m.l.DiskSize:
		return refuse("disk_size is %d there, %d here", man.DiskSize, m.l.DiskSize)
	case esp.Start != mib || esp.Size != m.l.ESPSize || root.Start != m.l.rootStart() || root.Size != m.l.rootSize():
		return refuse("its partitions are %d bytes at %d and %d at %d", esp.Size, esp.Start, root.Size, root.Start)
	case root.Content != "ext4":
		return refuse("its root filesystem is %s", root.Content)
	case m.l.RootUUID != "" && m.l.RootUUID != root.FSUUID:
		return refuse("root_uuid is %s there, %s here", root.FSUUID, m.l.RootUUID)
	case m.l.RootLabel != root.FSLabel:
		return refuse("root_label is %q there, %q here", root.FSLabel, m.l.RootLabel)
	case os.Geteuid() != 0:
		return "", &Refused{Device: m.cfg.Tree, Why: "the parent's root filesystem is to be mounted, which takes root"}
	}
	m.l.RootUUID = root.FSUUID
	return strings.ToLower(root.UUID), nil
}

// update makes the root filesystem on the disk, which is the parent's, have what
// src has. Files that are the same stay where they are.
func (m *maker) update(ctx context.Context, src *source) (err error) {
	dev, err := disk.Open(m.disk, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	files, ok := dev.(disk.Attacher)
	if !ok {
		return fmt.Errorf("%s cannot be attached to a loop device", m.disk)
	}
	loop, err := files.Attach(m.l.rootStart(), m.l.rootSize(), sector)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.Close()) }()
	if err := m.mend(ctx, loop.Path()); err != nil {
		return err
	}
	// New inode tables are zeroed when the system itself mounts it. The filesystem
	// could have this machine panic where a disk is full.
	err = disk.OnMount(loop.Path(), "ext4", []string{"noinit_itable", "errors=remount-ro"}, func(root *os.File) error {
		s := &syncing{from: src.dir, to: fmt.Sprintf("/proc/self/fd/%d", root.Fd()), tell: m.tell(StepFill), total: taken(src.dir),
			made: make(map[inodeID]string), claimed: make(map[uint64]bool)}
		return s.named(s.dir(ctx, ""))
	})
	// Of a file that cannot grow the loop device tells only that.
	dir := filepath.Dir(m.disk)
	if st := (unix.Statfs_t{}); errors.Is(err, unix.EIO) && unix.Statfs(dir, &st) == nil && int64(st.Bavail)*st.Bsize < mib {
		return fmt.Errorf("%s: %w (%w)", dir, unix.ENOSPC, err)
	}
	return err
}

// mend has e2fsck repair the parent's root filesystem, on the block device at path:
// of one at an offset in a file it forgets the offset once it has replayed the
// journal. It can come from a stranger, or of a machine that was running; what is
// wrong in it the kernel may notice only when files are written over others, or
// not at all.
func (m *maker) mend(ctx context.Context, path string) error {
	var said bytes.Buffer
	_, err := runTo(ctx, nil, &said, "e2fsck", "-f", "-p", path)
	const repaired, left = 1, 4 // e2fsck(8)
	exit := (*exec.ExitError)(nil)
	switch {
	case !errors.As(err, &exit) || exit.ExitCode() < 0: // killed
		return err
	case exit.ExitCode() == repaired:
		m.cfg.Log.Warn("tree: the parent's root filesystem was not in order: repaired in the copy", "by", "e2fsck -p")
		return nil
	case exit.ExitCode()&left != 0:
		return &Refused{Device: m.cfg.Tree, Why: fmt.Sprintf("the parent's root filesystem is damaged; run e2fsck on a disk with it and capture that. It says: %.300s", text(&said))}
	}
	return fmt.Errorf("%w: %.300s", err, text(&said))
}
