package archive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/archive"
	"huck/imager/capture"
	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/store"
)

// gptDisk makes a disk of 64 MiB with a GPT, an ESP and an ext4 full of files,
// and nothing in its unused blocks.
func gptDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 4 {
		b := make([]byte, 1<<20)
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "sgdisk", "-n1:2048:+8M", "-t1:ef00", "-n2:20480:0", path)
	tool(t, "mkfs.ext4", "-q", "-d", tree, "-E", "offset=10485760", path, "52M")
	tool(t, "mkfs.vfat", "-F", "12", "--offset=2048", path, "8192")
	return path
}

func captureDisk(t *testing.T, s store.WriteStore, path string) image.TagInfo {
	t.Helper()
	dev, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	r, err := capture.Run(t.Context(), capture.Config{Device: dev, Store: s, Name: "golden"})
	if err != nil {
		t.Fatal(err)
	}
	return image.TagInfo{Name: "golden", Version: 1, Digest: r.Digest}
}

// leftovers insists that a folder has these files and no others.
func leftovers(t *testing.T, dir string, want ...string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q, want %q", dir, got, want)
	}
}

func TestExportDisks(t *testing.T) {
	source, s, dir := gptDisk(t), newDir(t), t.TempDir()
	tag := captureDisk(t, s, source)
	for _, format := range []string{archive.Raw, archive.QCOW2} {
		file := filepath.Join(dir, "out."+format)
		var done, total int64
		var converted told
		r, err := archive.Export(t.Context(), file, archive.ExportConfig{Store: s, Tag: tag, Format: format,
			Progress: func(d, n int64) { done, total = d, n }, Converting: converted.tell})
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(file)
		if err != nil || r.FileBytes != st.Size() || r.Format != format || r.Ref != "golden:1" || r.File != file {
			t.Errorf("exported %+v, %v", r, err)
		}
		if done < total*9/10 || done == 0 {
			t.Errorf("progress ended at %d of %d", done, total)
		}
		if format == archive.QCOW2 {
			converted.check(t, r.ImageBytes, r.ImageBytes)
		}
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", format, source, file)
	}
	leftovers(t, dir, "out.qcow2", "out.raw")
	cfg := archive.ExportConfig{Store: s, Tag: tag, Parent: tag.Digest, Format: archive.Raw}
	if _, err := archive.Export(t.Context(), filepath.Join(dir, "delta"), cfg); err == nil {
		t.Error("a raw delta was made")
	}
	leftovers(t, dir, "out.qcow2", "out.raw")
}

func TestExportTarget(t *testing.T) {
	s, dir := newMemStore(), t.TempDir()
	cfg := archive.ExportConfig{Store: s, Tag: putImage(t, s, "a", "b"), Format: archive.Huck}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	var refused *archive.Refused
	if _, err := archive.Export(t.Context(), file, cfg); !errors.As(err, &refused) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that exists: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("it is now %.20q, %v", b, err)
	}
	cfg.Force = true
	if _, err := archive.Export(t.Context(), file, cfg); err != nil {
		t.Errorf("with force: %v", err)
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(b, write(t, cfg)) {
		t.Errorf("the file is not what goes to a stream (%v)", err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, "/dev/null", filepath.Join(dir, "link"), "/dev/huck-no-such-disk"} {
		if _, err := archive.Export(t.Context(), path, cfg); !errors.As(err, &refused) || refused.Device != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := archive.Export(t.Context(), filepath.Join(dir, "no", "such"), cfg); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	leftovers(t, dir, "file", "link")
}

// TestExportRace makes the file while it is being exported.
func TestExportRace(t *testing.T) {
	s, dir := newMemStore(), t.TempDir()
	file := filepath.Join(dir, "file")
	cfg := archive.ExportConfig{Store: s, Tag: putImage(t, s, "a", "b"), Format: archive.Huck}
	cfg.Progress = func(int64, int64) {
		if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
			t.Error(err)
		}
	}
	var refused *archive.Refused
	if _, err := archive.Export(t.Context(), file, cfg); !errors.As(err, &refused) {
		t.Errorf("a file that came to be: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("it is now %.20q, %v", b, err)
	}
	leftovers(t, dir, "file")
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Progress, cfg.Force = func(int64, int64) { cancel() }, true
	if _, err := archive.Export(ctx, file, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	leftovers(t, dir, "file")
}

// importFile imports a file under the name "copy".
func importFile(t *testing.T, s store.WriteStore, file string) (capture.Result, error) {
	t.Helper()
	temp := t.TempDir()
	r, err := archive.Import(t.Context(), file, archive.ImportConfig{Store: s, Name: "copy", TempDir: temp})
	leftovers(t, temp)
	return r, err
}

// TestImportFormats imports one disk in every format, under a name that says
// nothing, and wants one image.
func TestImportFormats(t *testing.T) {
	source, s, dir := gptDisk(t), newDir(t), t.TempDir()
	tag := captureDisk(t, s, source)
	file := filepath.Join(dir, "file")
	formats := [][]string{
		{"raw"}, {"qcow2"}, {"qcow2", "-o", "compat=0.10"}, {"qcow2", "-c"}, {"vmdk"}, {"vmdk", "-o", "subformat=streamOptimized"},
		{"vpc", "-o", "force_size=on"}, {"vpc", "-o", "force_size=on,subformat=fixed"}, {"vhdx"}, {"vhdx", "-o", "subformat=fixed"},
	}
	for _, f := range formats {
		t.Run(strings.Join(f, " "), func(t *testing.T) {
			args := append([]string{"convert", "-f", "raw", "-O"}, f...)
			tool(t, "qemu-img", append(args, source, file)...)
			r, err := importFile(t, s, file)
			if err != nil {
				t.Fatal(err)
			}
			if r.Digest != tag.Digest || r.NewBytes != 0 {
				t.Errorf("imported %+v, the source is @%s", r, tag.Digest.Short())
			}
			if f[0] != "raw" {
				checkUnpacking(t, s, file, 4*mib, 64*mib)
			}
		})
	}
	if err := os.WriteFile(file, write(t, archive.ExportConfig{Store: s, Tag: tag}), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := importFile(t, newDir(t), file); err != nil || r.Digest != tag.Digest {
		t.Errorf(".huck: %+v, %v", r, err)
	}
}

// TestImportTruncated cuts disks off where qemu-img alone would read zeros.
func TestImportTruncated(t *testing.T) {
	source, dir := gptDisk(t), t.TempDir()
	for _, format := range [][]string{{"qcow2"}, {"vmdk"}, {"vmdk", "-o", "subformat=streamOptimized"}, {"vpc"}, {"vhdx"}} {
		t.Run(strings.Join(format, " "), func(t *testing.T) {
			file := filepath.Join(dir, "file")
			args := append([]string{"convert", "-f", "raw", "-O"}, format...)
			tool(t, "qemu-img", append(args, source, file)...)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newDir(t)
			for _, n := range []int{len(b) - 70000, len(b) * 3 / 4, len(b) / 2, len(b) / 4, 70000, 600} {
				if err := os.WriteFile(file, b[:n], 0o644); err != nil {
					t.Fatal(err)
				}
				if r, err := importFile(t, s, file); err == nil {
					t.Errorf("cut to %d of %d bytes, it is imported: %+v", n, len(b), r)
				}
			}
			if tags, err := s.Tags(t.Context()); err != nil || len(tags) != 0 {
				t.Errorf("tags %v, %v", tags, err)
			}
		})
	}
}

// TestImportRefused has files that are known for what they are and refused
// before any other program sees them, and so without one.
func TestImportRefused(t *testing.T) {
	t.Setenv("PATH", "")
	qcow := func(edit func(b []byte)) string {
		b := make([]byte, 4096)
		copy(b, "QFI\xfb\x00\x00\x00\x03")
		edit(b)
		return string(b)
	}
	vmdk := func(capacity byte, text string) string {
		b := make([]byte, 16<<10)
		copy(b, "KDMV")
		b[12] = capacity
		copy(b[1024:], text)
		return string(b)
	}
	vhd := func(kind byte) string {
		b := make([]byte, 4096)
		copy(b[3584:], "conectix")
		b[3584+63] = kind
		return string(b)
	}
	tests := []struct{ name, content, want string }{
		{"backing file", qcow(func(b []byte) { b[15] = 1 }), "backing file"},
		{"data file", qcow(func(b []byte) { b[79] = 4 }), "another file"},
		{"encrypted", qcow(func(b []byte) { b[35] = 2 }), "encrypted"},
		{"old qcow", qcow(func(b []byte) { b[7] = 1 }), "version 1"},
		{"no qemu-img", qcow(func([]byte) {}), "qemu-utils"},
		{"only magic", "QFI\xfb", "version 0"},
		{"VMDK of others", vmdk(0, ""), "several files"},
		{"VMDK snapshot", vmdk(1, `parentFileNameHint="/etc/shadow"`), "snapshot"},
		{"VMDK alone", vmdk(1, ""), "qemu-utils"},
		{"VMDK descriptor", "# Disk DescriptorFile\nRW 63 FLAT \"/etc/shadow\" 0\n", "-flat.vmdk"},
		{"differencing VHD", vhd(4), "differencing"},
		{"VHD", vhd(2), "qemu-utils"},
		{"gzip", "\x1f\x8b\x08\x00", "gzip -d"},
		{"zstd", "\x28\xb5\x2f\xfd\x00", "zstd -d"},
		{"tar", strings.Repeat("\x00", 257) + "ustar", "tar archive"},
		{"VDI", strings.Repeat(" ", 64) + "\x7f\x10\xda\xbe", "VirtualBox"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
			var refused *archive.Refused
			_, err := importFile(t, newMemStore(), file)
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("error %v, want one of %s that says %q", err, file, tt.want)
			}
		})
	}
	if _, err := importFile(t, newMemStore(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	var refused *archive.Refused
	if _, err := importFile(t, newMemStore(), t.TempDir()); !errors.As(err, &refused) {
		t.Errorf("a folder: %v", err)
	}
	s := newMemStore()
	cfg := archive.ExportConfig{Store: s, Tag: putImage(t, s, "a"), Format: archive.QCOW2}
	if _, err := archive.Export(t.Context(), filepath.Join(t.TempDir(), "x"), cfg); !errors.As(err, &refused) || !strings.Contains(err.Error(), "qemu-utils") {
		t.Errorf("export to qcow2 without qemu-img: %v", err)
	}
}

// TestImportLies gives qemu-img disks that are much too large or broken inside.
func TestImportLies(t *testing.T) {
	source, dir := gptDisk(t), t.TempDir()
	file := filepath.Join(dir, "file")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, file)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		edit func(b []byte)
	}{
		{"a disk of 8 EiB", func(b []byte) { binary.BigEndian.PutUint64(b[24:], 1<<63-512) }},
		{"an L1 table far away", func(b []byte) { binary.BigEndian.PutUint64(b[40:], 1<<55) }},
		{"clusters of 2^31 bytes", func(b []byte) { binary.BigEndian.PutUint32(b[20:], 31) }},
		{"an L2 table far away", func(b []byte) { binary.BigEndian.PutUint64(b[binary.BigEndian.Uint64(b[40:]):], 1<<63|1<<40) }},
		{"two tables in one place", func(b []byte) { copy(b[48:56], b[40:48]) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(good)
			tt.edit(b)
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			s := newDir(t)
			r, err := importFile(t, s, file)
			if tags, terr := s.Tags(t.Context()); err == nil || terr != nil || len(tags) != 0 {
				t.Errorf("imported %+v, %v; tags %v, %v", r, err, tags, terr)
			}
		})
	}
}
