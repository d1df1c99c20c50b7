package qemutests_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"huck/imager/image"
	"huck/imager/install/prooftest"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// proof is a filesystem that imager's own tests cannot mount, because few
// kernels know it: Debian's does.
type proof struct {
	disks.Single
	name string
	// kind is what imager calls it, mount what it is mounted as.
	kind, mount string
	// unrest is said of one that was not unmounted.
	unrest string
}

func proofs() []proof {
	f2fs := func(name, mount string, mkfs ...string) proof {
		return proof{name: name, kind: "f2fs", mount: mount, unrest: "files were synced to it since its last checkpoint", Single: disks.Single{
			Size: 160 * mib, Mkfs: append([]string{"mkfs.f2fs", "-q", "-f"}, mkfs...), Check: []string{"sh", "-ec", f2fsCheck, "sh"},
		}}
	}
	xfs := func(name string, size int64, mkfs ...string) proof {
		return proof{name: name, kind: "xfs", mount: "xfs", unrest: "its log needs recovery", Single: disks.Single{
			Size: size * mib, Mkfs: append([]string{"mkfs.xfs", "-q", "-f", "--unsupported", "-m", "crc=0"}, mkfs...), Check: []string{"xfs_repair", "-n", "-o", "force_geometry"},
		}}
	}
	return []proof{
		f2fs("f2fs", "f2fs"),
		f2fs("f2fs-features", "f2fs,compress_algorithm=lz4,compress_extension=lz4", "-O",
			"extra_attr,inode_checksum,sb_checksum,inode_crtime,lost_found,verity,quota,project_quota,compression,flexible_inline_xattr,encrypt"),
		xfs("xfs4", 320),
		xfs("xfs4-old", 160, "-l", "size=8m,version=1,lazy-count=0", "-n", "ftype=0", "-d", "agcount=7"),
	}
}

// f2fsCheck checks the file $1. fsck.f2fs ends with 0 whatever it finds.
const f2fsCheck = `out=$(fsck.f2fs --dry-run "$1"); case $out in *"[Fail]"*) ;; *Done*) exit;; esac; echo "$out"; exit 1`

// rest is the disk when it was unmounted, and cut the same later, when the power
// went.
func (p proof) rest(s *labSite) string { return s.Path(p.name + "-rest") }
func (p proof) cut(s *labSite) string  { return s.Path(p.name + "-cut") }

// Filesystems that Debian's kernel has filled, deleted from and unmounted go
// through capture and install and are none the worse for it: the same kernel
// finds the same files, the image has none of the deleted bytes and as many
// used ones as the kernel counts, and the copy can be written to. What was on
// the target, even what the same filesystem became later, does not show. Where
// the power was cut, nothing is captured, or by --force all of it.
func TestFilesystems(t *testing.T) {
	require(t, "mkfs.f2fs", "fsck.f2fs", "mkfs.xfs", "xfs_repair", "cpio", "apt-get", "dpkg-deb")
	s := newSite(t, 6*time.Minute)
	guest, rows := s.fsGuest(), proofs()
	used := s.fillAll(guest, rows)
	var all []string
	for i, p := range rows {
		all = append(all, p.rest(s))
		all = append(all, s.atRest(p, used[i])...)
		all = append(all, s.afterCut(p))
	}
	m := s.fsMachine(guest, "target", all...)
	for i, p := range rows {
		random, cut := 4*i+1, 4*i+3
		s.obeyed(m, "same %s %d %d %d", p.mount, 4*i, random, 4*i+2)
		s.obeyed(m, "fill %s %d again", p.mount, random)
		s.obeyed(m, "synced %s %d", p.mount, cut)
	}
	s.must(m.Type("poweroff"))
	s.must(m.WaitOff(s.ctx))
	for i, p := range rows {
		for _, disk := range all[4*i : 4*i+4] {
			s.must(p.Judge(s.ctx, disk))
		}
	}
}

// fillAll has a machine fill the disks and unmount them, and returns how many
// bytes its kernel says are used. Then it writes more until its power is cut.
func (s *labSite) fillAll(guest vm.Config, rows []proof) (used []int64) {
	s.t.Helper()
	var all []string
	for _, p := range rows {
		all = append(all, p.cut(s))
		s.must(p.Write(s.ctx, p.cut(s)))
	}
	m := s.fsMachine(guest, "source", all...)
	defer m.Cut()
	for i, p := range rows {
		n, err := strconv.ParseInt(strings.TrimSuffix(s.obeyed(m, "fill %s %d .", p.mount, i), " bytes used"), 10, 64)
		s.must(err)
		used = append(used, n)
		s.must(copySparse(s.ctx, p.rest(s), p.cut(s)))
		s.obeyed(m, "sync %s %d", p.mount, i)
	}
	return used
}

func copySparse(ctx context.Context, to, from string) error {
	_, err := proc.Run(ctx, proc.Command{Args: []string{"cp", "--sparse=always", from, to}})
	return err
}

// atRest captures a filesystem, judges the image and installs it, on random
// bytes and on what the same disk became later.
func (s *labSite) atRest(p proof, used int64) (targets []string) {
	s.t.Helper()
	s.must(p.Judge(s.ctx, p.rest(s)))
	if n := s.deletedBytes(p.rest(s)); n < 4*mib {
		s.t.Fatalf("%s has %d bytes of deleted files: they prove nothing", p.name, n)
	}
	img := s.capture(p.rest(s), p.name)
	part := s.part(img.Ref)
	if part.Content != p.kind || part.Whole != "" {
		s.t.Fatalf("captured %+v", part)
	}
	s.t.Logf("%s: %d bytes used, by the kernel %d (%+.2f %%)", p.name, part.UsedBytes, used, 100*float64(part.UsedBytes-used)/float64(used))
	if max(part.UsedBytes-used, used-part.UsedBytes)*50 > used {
		s.t.Errorf("%s: %d bytes used, the kernel says %d", p.name, part.UsedBytes, used)
	}
	raw := s.Path(p.name + ".raw")
	_, err := s.Imager(s.ctx, "export", img.Ref, raw, "--store", s.Store(), "--format", "raw")
	s.must(err)
	if n := s.deletedBytes(raw); n != 0 {
		s.t.Errorf("%s: the image holds %d bytes of deleted files", p.name, n)
	}
	random, later := s.Path(p.name+"-random"), s.Path(p.name+"-later")
	s.must(randomFile(random, p.DiskSize()+7*mib+512))
	s.must(copySparse(s.ctx, later, p.cut(s)))
	for _, target := range []string{random, later} {
		s.install(img.Ref, target)
		s.must(p.Judge(s.ctx, target))
	}
	return []string{random, later}
}

func (s *labSite) install(ref, target string) {
	s.t.Helper()
	_, err := s.Imager(s.ctx, "install", ref, "--store", s.Store(), "--to", target, "--verify")
	s.must(err)
}

// afterCut captures a filesystem that was mounted when the power went, which
// takes --force, and installs it.
func (s *labSite) afterCut(p proof) (target string) {
	s.t.Helper()
	name := p.name + "-cut"
	_, err := s.Capture(s.ctx, p.cut(s), name)
	var exit *proc.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(exit.Stderr, p.unrest) {
		s.t.Fatalf("capture of %s: %v", name, err)
	}
	_, err = s.Imager(s.ctx, "capture", p.cut(s), "--store", s.Store(), "--name", name, "--force")
	s.must(err)
	if part := s.part(name); part.Content != p.kind || part.Whole == "" || part.UsedBytes != p.Size {
		s.t.Fatalf("captured %+v", part)
	}
	target = s.Path(name + "-target")
	s.must(randomFile(target, p.DiskSize()+7*mib+512))
	s.install(name, target)
	return target
}

// part asks the imager for the only partition of an image.
func (s *labSite) part(ref string) image.Partition {
	s.t.Helper()
	out, err := s.Imager(s.ctx, "show", ref, "--store", s.Store())
	s.must(err)
	var shown struct{ Manifest image.Manifest }
	s.must(json.Unmarshal(out, &shown))
	if len(shown.Manifest.Partitions) != 1 {
		s.t.Fatalf("%s has the partitions %+v", ref, shown.Manifest.Partitions)
	}
	return shown.Manifest.Partitions[0]
}

// deletedBytes counts how much of what deleted files held is in a file.
func (s *labSite) deletedBytes(path string) (n int64) {
	s.t.Helper()
	f, err := os.Open(path)
	s.must(err)
	defer f.Close()
	for buf := make([]byte, mib); ; { // pieces of it at the buffer's ends do not matter
		got, err := io.ReadFull(f, buf)
		n += int64(bytes.Count(buf[:got], []byte(prooftest.Gone)) * len(prooftest.Gone))
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				s.t.Fatal(err)
			}
			return n
		}
	}
}

// fsGuest makes what boots the machines that mount filesystems.
func (s *labSite) fsGuest() vm.Config {
	s.t.Helper()
	// No module depends on checksums and quota: the kernel asks for them by name.
	return s.guest(s.kernel(), nil, "crc32_generic", "crc32c_generic", "quota_v2", "virtio_pci", "virtio_blk", "f2fs", "xfs")
}

// kernel fetches Debian's kernel, unless it is there.
func (s *labSite) kernel() disks.Generic {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), scaled(10*time.Minute)) // the mirror's time is not the test's
	defer cancel()
	kernel, err := disks.GenericKernel(ctx, disks.CacheDir(), slog.New(slog.NewTextHandler(s.t.Output(), nil)))
	s.must(err)
	return kernel
}

// guest makes what boots machines that obey (fsguest) with modules and programs.
func (s *labSite) guest(kernel disks.Generic, programs []string, modules ...string) vm.Config {
	s.t.Helper()
	init, initramfs := s.Path("fsguest"), s.Path("fsguest.cpio")
	_, err := proc.Run(s.ctx, proc.Command{Args: []string{"go", "build", "-o", init, "huck/qemu-tests/fsguest"}, Env: append(os.Environ(), "CGO_ENABLED=0")})
	s.must(err)
	s.must(kernel.Initramfs(s.ctx, initramfs, disks.Guest{Init: init, Modules: modules, Programs: programs}))
	return vm.Config{Kernel: kernel.Kernel, Initrd: initramfs, Append: "console=ttyS0 quiet " + vm.KernelArgs}
}

func (s *labSite) fsMachine(cfg vm.Config, name string, files ...string) *vm.Machine {
	s.t.Helper()
	cfg.Name, cfg.Disks = name, files
	m, err := s.Plug(s.ctx, cfg)
	s.must(cmp.Or(err, m.PowerOn()))
	s.expect(m, `fsguest: ready`)
	s.t.Logf("%s: ready %v after power-on", name, time.Since(m.OnAt()).Round(time.Millisecond))
	return m
}

// obeyed types a line and returns what the machine adds to its answer.
func (s *labSite) obeyed(m *vm.Machine, format string, args ...any) string {
	s.t.Helper()
	line, from := fmt.Sprintf(format, args...), m.Console().Len()
	s.must(m.Type(line))
	answer, _, err := m.Expect(s.ctx, `(ok|failed) `+regexp.QuoteMeta(line)+`:? ([^\r]*)\r`, from)
	s.must(err)
	if answer[1] != "ok" {
		s.t.Fatalf("%s: %s", m.Name(), m.Console().String()[from:])
	}
	s.t.Logf("%q %v after power-on", line, time.Since(m.OnAt()).Round(time.Millisecond))
	return answer[2]
}
