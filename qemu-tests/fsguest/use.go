package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"huck/imager/install/prooftest"
)

// partition finds the first partition of a disk by the end of the disk's serial
// number, and returns its name: the order of the names in /dev is the kernel's.
func partition(disk string) (string, error) {
	serials, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		return "", err
	}
	for _, s := range serials {
		if b, err := os.ReadFile(s); err == nil && strings.HasSuffix(strings.TrimSpace(string(b)), "-disk"+disk) {
			return filepath.Base(filepath.Dir(s)) + "1", nil
		}
	}
	return "", fmt.Errorf("no disk %s among %q", disk, serials)
}

// mount mounts a partition. What files occupied is not discarded: it has to
// stay on the disk.
func mount(kind, part string, flags uintptr) (dir string, err error) {
	dir = "/mnt/" + part
	kind, options, _ := strings.Cut(kind+",nodiscard", ",")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("/dev/"+part, dir, kind, flags, options); err != nil {
		return "", fmt.Errorf("mount %s: %v", part, err)
	}
	return dir, nil
}

// mounted calls f while the first partition of a disk is mounted.
func mounted(kind, disk string, flags uintptr, f func(dir, part string) error) error {
	part, err := partition(disk)
	if err != nil {
		return err
	}
	dir, err := mount(kind, part, flags)
	if err != nil {
		return err
	}
	err = f(dir, part)
	if uerr := unix.Unmount(dir, 0); uerr != nil {
		return cmp.Or(err, fmt.Errorf("unmount %s: %v", part, uerr))
	}
	return err
}

func fill(kind, disk, folder string) (answer string, err error) {
	err = mounted(kind, disk, 0, func(dir, _ string) error {
		dir = filepath.Join(dir, folder)
		return cmp.Or(os.MkdirAll(filepath.Join(dir, "synced"), 0o755), prooftest.Populate(dir), compressed(kind, dir), prooftest.RemoveGone(dir))
	})
	if err != nil {
		return "", err
	}
	err = mounted(kind, disk, unix.MS_RDONLY, func(dir, part string) error {
		n, err := used(kind, dir, part)
		answer = fmt.Sprintf("%d bytes used", n)
		return err
	})
	return answer, err
}

// compressed makes a file that F2FS compresses if its options say so for the
// name, and checks that it did: then fewer blocks are on the disk than the file
// has reserved.
func compressed(kind, dir string) error {
	f, err := os.Create(filepath.Join(dir, "words.lz4"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte("words and "), 20_000)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil || !strings.Contains(kind, "compress") {
		return err
	}
	const getCompressBlocks = 0x8008f511 // F2FS_IOC_GET_COMPRESS_BLOCKS, Linux, include/uapi/linux/f2fs.h
	if saved, err := unix.IoctlGetInt(int(f.Fd()), getCompressBlocks); err != nil || saved < 10 {
		return fmt.Errorf("%d blocks saved by compression, %v", saved, err)
	}
	return nil
}

// used returns the bytes of a partition that its filesystem has in use.
func used(kind, dir, part string) (int64, error) {
	if strings.HasPrefix(kind, "f2fs") {
		return usedF2FS(part)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	sectors, err := number("/sys/class/block/" + part + "/size")
	return sectors*512 - int64(st.Bfree)*st.Bsize, err
}

// usedF2FS goes by what the kernel tells developers: to statfs, blocks kept
// back for cleaning are no free ones.
func usedF2FS(part string) (int64, error) {
	before, err := number("/sys/fs/f2fs/" + part + "/main_blkaddr")
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile("/sys/kernel/debug/f2fs/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "partition info("+part+")") // of all that are mounted
	_, rest, _ = strings.Cut(rest, "\nUtilization: ")
	var percent, valid int64
	if _, err := fmt.Sscanf(rest, "%d%% (%d valid blocks", &percent, &valid); err != nil {
		return 0, fmt.Errorf("no count of blocks in\n%s", status)
	}
	return (before + valid) * 4096, nil
}

func number(name string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

func same(kind, first string, others []string) error {
	want := ""
	for _, disk := range append([]string{first}, others...) { // one after the other: they have one UUID
		var state string
		err := mounted(kind, disk, unix.MS_RDONLY, func(dir, _ string) (err error) {
			state, err = prooftest.State(dir)
			return err
		})
		if want == "" {
			want = state
		}
		if err = cmp.Or(err, prooftest.Same(want, state)); err != nil {
			return fmt.Errorf("disk %s: %w", disk, err)
		}
	}
	return nil
}

// synced is how many files there are that "sync" writes.
const synced = 20

// syncedFile returns the name, in the folder of all, and the content of a file.
func syncedFile(i int) (name string, content []byte) {
	r := rand.New(rand.NewPCG(9, uint64(i)))
	content = make([]byte, 1+r.IntN(100_000))
	for j := range content {
		content[j] = byte(r.Uint32())
	}
	return filepath.Join("synced", fmt.Sprint("file-", i)), content
}

// writeSynced syncs files one by one, in a folder that fill has made, so that
// they are in a log only: all else is as the last unmounting left it.
func writeSynced(kind, disk string) error {
	part, err := partition(disk)
	if err != nil {
		return err
	}
	dir, err := mount(kind, part, 0)
	if err != nil {
		return err
	}
	for i := range synced {
		name, content := syncedFile(i)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		err = cmp.Or(err, unix.Fsetxattr(int(f.Fd()), "user.huck", content[:1], 0), f.Sync(), f.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func checkSynced(kind, disk string) error {
	return mounted(kind, disk, 0, func(dir, _ string) error {
		for i := range synced {
			name, want := syncedFile(i)
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			value := make([]byte, 2)
			n, err := unix.Getxattr(filepath.Join(dir, name), "user.huck", value)
			if err != nil || !bytes.Equal(value[:n], want[:1]) || !bytes.Equal(got, want) {
				return fmt.Errorf("%s: %d bytes, attribute %x, %v", name, len(got), value[:n], err)
			}
		}
		return nil
	})
}
