package install

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Filesystems are grown by the kernel, mounted: XFS and Btrfs know no other
// way, ext4 does it by the same code as any running server, and a machine that
// is being imaged has our program and a kernel, not the tools of three
// filesystems.
//
// The kernel does not grow every ext4 (none with sparse_super2), nor for
// everyone (it takes CAP_SYS_RESOURCE). Then resize2fs does, where it is
// installed.

// grower is how one kind of filesystem is grown.
type grower struct {
	// driver is the kernel's name for the kind, flags are mount options.
	driver string
	flags  []string
	// room reads from the start of a filesystem how it can grow.
	room func(fs io.ReaderAt) (room, error)
	// grow makes the mounted filesystem take size bytes. dir is its root.
	grow func(dir *os.File, size int64) error
	// offline makes the filesystem, not mounted, take all of the block device
	// at path; nil if nothing does that.
	offline func(ctx context.Context, path string) error
}

// room is how a filesystem can grow, in bytes.
type room struct {
	// size is how large it is, unit what its size is a multiple of.
	size, unit int64
	// piece is the room that is always enough. The next group of an ext4 must
	// hold its own metadata, that of an XFS 64 blocks: where that does not fit,
	// they end with the last whole group, and no error tells.
	piece int64
}

// growers are by the content's name in a manifest.
func growers(content string) (grower, bool) {
	switch content {
	case "ext2", "ext3", "ext4":
		// New inode tables are zeroed when the system itself mounts it.
		return grower{"ext4", []string{"noinit_itable"}, extRoom, growExt, resize2fs}, true
	case "xfs":
		// The machine may run from the very system that the image was made of.
		return grower{"xfs", []string{"nouuid"}, xfsRoom, growXFS, nil}, true
	case "btrfs":
		return grower{"btrfs", nil, btrfsRoom, growBtrfs, nil}, true
	}
	return grower{}, false
}

func ioctl(f *os.File, req uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// errNoSuper tells that what was to grow is not there.
var errNoSuper = errors.New("no such superblock")

func readSuper(fs io.ReaderAt, at int64, magicAt int, magic string) ([]byte, error) {
	b := make([]byte, 1024)
	if _, err := fs.ReadAt(b, at); err != nil {
		return nil, err
	}
	if string(b[magicAt:magicAt+len(magic)]) != magic {
		return nil, errNoSuper
	}
	return b, nil
}

// extRoom: Linux, Documentation/filesystems/ext4/super.rst.
func extRoom(fs io.ReaderAt) (room, error) {
	b, err := readSuper(fs, 1024, 0x38, "\x53\xef")
	if err != nil {
		return room{}, err
	}
	le := binary.LittleEndian
	blocks, shift := uint64(le.Uint32(b[0x4:])), le.Uint32(b[0x18:])
	if le.Uint32(b[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	return inBytes(blocks, 1024<<min(shift, 7), le.Uint32(b[0x20:]), shift > 6)
}

func xfsRoom(fs io.ReaderAt) (room, error) {
	const minGroup = 64 // XFS_MIN_AG_BLOCKS
	b, err := readSuper(fs, 0, 0, "XFSB")
	if err != nil {
		return room{}, err
	}
	block := binary.BigEndian.Uint32(b[4:])
	return inBytes(binary.BigEndian.Uint64(b[8:]), int64(block), minGroup, block < 512 || block > 65536)
}

func btrfsRoom(fs io.ReaderAt) (room, error) {
	const at = 64 << 10
	b, err := readSuper(fs, at, 0x40, "_BHRfS_M")
	if err != nil {
		return room{}, err
	}
	if n := binary.LittleEndian.Uint64(b[0x88:]); n != 1 {
		return room{}, fmt.Errorf("it is one of %d devices of a Btrfs", n)
	}
	r, err := inBytes(binary.LittleEndian.Uint64(b[0x70:]), 1, 1, false)
	r.unit = max(r.unit, int64(binary.LittleEndian.Uint32(b[0x90:])))
	return r, err
}

// inBytes is the room of a filesystem with n blocks of unit bytes that takes as
// many as piece whenever they are there; refused where that cannot be.
func inBytes(n uint64, unit int64, piece uint32, odd bool) (room, error) {
	if odd || n > uint64(1<<62/unit) {
		return room{}, fmt.Errorf("a superblock with %d blocks of %d bytes", n, unit)
	}
	return room{int64(n) * unit, unit, int64(piece) * unit}, nil
}

// growExt: EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) of fs/ext4/ext4.h, takes the
// new size in blocks.
func growExt(dir *os.File, size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return err
	}
	blocks := uint64(size / st.Bsize)
	return ioctl(dir, 0x40086610, unsafe.Pointer(&blocks))
}

// resize2fs insists on a check first, which ends with 1 if it has mended
// something.
func resize2fs(ctx context.Context, path string) error {
	if err := runTool(ctx, 1, "e2fsck", "-f", "-p", path); err != nil {
		return err
	}
	return runTool(ctx, 0, "resize2fs", path)
}

// runTool runs a program that may end with an exit code up to fine.
func runTool(ctx context.Context, fine int, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() && exit.ExitCode() <= fine {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// growXFS: XFS_IOC_FSGEOMETRY_V1, _IOR('X', 100, …), and XFS_IOC_FSGROWFSDATA,
// _IOW('X', 110, …), of fs/xfs/libxfs/xfs_fs.h. The latter sets the size in
// blocks and the share of it that inodes may take, which is to stay.
func growXFS(dir *os.File, size int64) error {
	var geometry struct {
		blockSize uint32
		_         [6]uint32
		inodesMax uint32
		_         [80]byte
	}
	if err := ioctl(dir, 0x80705864, unsafe.Pointer(&geometry)); err != nil {
		return err
	}
	grow := struct {
		blocks    uint64
		inodesMax uint32
		_         uint32
	}{blocks: uint64(size) / uint64(max(geometry.blockSize, 1)), inodesMax: geometry.inodesMax}
	return ioctl(dir, 0x4010586e, unsafe.Pointer(&grow))
}

// volume is struct btrfs_ioctl_vol_args of include/uapi/linux/btrfs.h.
type volume struct {
	_    int64
	name [4088]byte
}

// growBtrfs: BTRFS_IOC_RESIZE, _IOW(0x94, 3, …), takes "DEVICE:SIZE". Its one
// device need not be number 1. To the kernel a size that it finds too small is an
// invalid argument like any other.
func growBtrfs(dir *os.File, size int64) error {
	const least = 256 << 20
	if size < least {
		return fmt.Errorf("the kernel resizes no Btrfs to fewer than %d bytes, there is room for %d", least, size)
	}
	number, err := btrfsDevice(dir)
	if err != nil {
		return err
	}
	var v volume
	copy(v.name[:], fmt.Sprintf("%d:%d", number, size))
	return ioctl(dir, 0x50009403, unsafe.Pointer(&v))
}

// btrfsDevice: BTRFS_IOC_FS_INFO, _IOR(0x94, 31, …), begins with the highest
// device number.
func btrfsDevice(dir *os.File) (uint64, error) {
	var info [1024]byte
	if err := ioctl(dir, 0x8400941f, unsafe.Pointer(&info)); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(info[:]), nil
}

// forget makes Btrfs forget the device at path, if it is one of its own
// (BTRFS_IOC_FORGET_DEV, _IOW(0x94, 5, …)). It remembers every device it has
// seen, and would take the disk's own partition for a stale copy of this one.
func forget(path string) {
	control, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return // no Btrfs has been here
	}
	defer control.Close() // nothing is written to it
	var v volume
	copy(v.name[:len(v.name)-1], path)
	_ = ioctl(control, 0x50009405, unsafe.Pointer(&v)) // it has nothing to forget, then
}
