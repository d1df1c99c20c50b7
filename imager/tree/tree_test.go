package tree_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"huck/imager/tree"
)

const rootUUID = "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11"

func parse(t *testing.T, text string) tree.Layout {
	t.Helper()
	l, err := tree.ParseLayout(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func layout(t *testing.T) tree.Layout {
	t.Helper()
	return parse(t, `{"disk_size":67108864,"esp_size":16777216,"root_uuid":"`+rootUUID+`","root_label":"golden","cmdline":"console=ttyS0 quiet"}`)
}

// offset is where the root filesystem of layout begins.
const offset = 17 << 20

// judge runs a program and returns what it printed.
func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatalf("%s is required: %v", name, err)
		}
		t.Skipf("%s is not here: %v", name, err)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sound insists that the disk's table and filesystems are good.
func sound(t *testing.T, path string) {
	t.Helper()
	judge(t, "sfdisk", "--verify", path)
	judge(t, "e2fsck", "-fn", fmt.Sprintf("%s?offset=%d", path, offset))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	judge(t, "fsck.vfat", "-n", writeFile(t, "esp", b[1<<20:offset]))
}

// inode returns what debugfs says about a file on the root filesystem.
func inode(t *testing.T, path, file string) string {
	t.Helper()
	return judge(t, "debugfs", "-R", "stat \""+file+"\"", fmt.Sprintf("%s?offset=%d", path, offset))
}

func content(t *testing.T, path, file string) string {
	t.Helper()
	out := judge(t, "debugfs", "-R", "cat \""+file+"\"", fmt.Sprintf("%s?offset=%d", path, offset))
	return regexp.MustCompile(`(?m)^debugfs .*\n`).ReplaceAllString(out, "")
}

func header(name string, kind byte, mode int64, uid int) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: uid, Gid: uid, ModTime: time.Unix(1700000000, 0)}
}

// archive is a small system, with one file of every kind.
func archive(t *testing.T, more ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, text string) {
		t.Helper()
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			return
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	add(header("./", tar.TypeDir, 0o755, 0), "")
	add(header("./boot/", tar.TypeDir, 0o700, 0), "")
	add(header("./boot/vmlinuz-6.9.0", tar.TypeReg, 0o600, 0), "old kernel")
	add(header("./boot/vmlinuz-6.12.0", tar.TypeReg, 0o600, 0), "kernel")
	add(header("./boot/initrd.img-6.12.0", tar.TypeReg, 0o600, 0), "initrd")
	add(header("home/me/", tar.TypeDir, 0o1777, 1000), "")
	add(header("home/me/file with space", tar.TypeReg, 0o644, 100000), "mine")
	ping := header("bin/ping", tar.TypeReg, 0o4755, 0)
	ping.PAXRecords = map[string]string{"SCHILY.xattr.user.origin": "test"}
	add(ping, "setuid")
	pong := header("bin/pong", tar.TypeLink, 0, 0)
	pong.Linkname = "./bin/ping"
	add(pong, "")
	null := header("dev/null", tar.TypeChar, 0o666, 0)
	null.Devmajor, null.Devminor = 1, 3
	add(null, "")
	add(header("run/fifo", tar.TypeFifo, 0o600, 7), "")
	sbin := header("sbin", tar.TypeSymlink, 0o777, 0)
	sbin.Linkname = "bin"
	add(sbin, "")
	for _, h := range more {
		add(h, "more")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTar(t *testing.T) {
	_ = judge(t, "mkfs.ext4", "-V")
	plain := archive(t)
	var gz, zst bytes.Buffer
	g := gzip.NewWriter(&gz)
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range [][]byte{plain, gz.Bytes(), zst.Bytes(), xz(t, plain)} {
		out := filepath.Join(t.TempDir(), "disk")
		if err := tree.Make(t.Context(), tree.Config{Tree: writeFile(t, "tree", b), Layout: layout(t)}, out); err != nil {
			t.Fatal(err)
		}
		sound(t, out)
		checkTar(t, out)
		files, err := os.ReadDir(filepath.Dir(out))
		if err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	}
}

// xz compresses.
func xz(t *testing.T, b []byte) []byte {
	t.Helper()
	_ = judge(t, "xz", "--version")
	cmd := exec.CommandContext(t.Context(), "xz", "--stdout", "-0")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// flipped damages the last byte but 40: xz's index or checksum.
func flipped(b []byte) []byte { b[len(b)-40]++; return b }

// checkTar compares a disk with archive.
func checkTar(t *testing.T, out string) {
	t.Helper()
	for file, want := range map[string][]string{
		"/":                        {"directory", "0755", "User:     0"},
		"/boot":                    {"directory", "0700"},
		"/home":                    {"directory", "0755", "User:     0"},
		"/home/me":                 {"directory", "01777", "User:  1000"},
		"/home/me/file with space": {"regular", "0644", "User: 100000", "Group: 100000", "0x6553f100"},
		"/bin/ping":                {"regular", "04755", "Links: 2", "user.origin (4) = \"test\""},
		"/dev/null":                {"character special", "0666", "01:03"},
		"/run/fifo":                {"FIFO", "0600", "User:     7"},
		"/sbin":                    {"symlink", "0777", "bin"},
	} {
		got := inode(t, out, file)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s has no %q: %s", file, w, got)
			}
		}
	}
	if got := content(t, out, "/home/me/file with space"); got != "mine" {
		t.Errorf("content %q", got)
	}
	entry := content(t, out, "/boot/loader/entries/huck.conf")
	part := regexp.MustCompile(`name="root"`).FindString(judge(t, "sfdisk", "--dump", out))
	uuid := strings.ToLower(strings.TrimSpace(judge(t, "sfdisk", "--part-uuid", out, "2")))
	for _, w := range []string{"linux /boot/vmlinuz-6.12.0\n", "initrd /boot/initrd.img-6.12.0\n", "options root=PARTUUID=" + uuid + " ro rootwait console=ttyS0 quiet\n"} {
		if !strings.Contains(entry, w) || part == "" {
			t.Errorf("the entry has no %q: %s", w, entry)
		}
	}
	if got := judge(t, "blkid", "-p", "-O", fmt.Sprint(offset), out); !strings.Contains(got, rootUUID) || !strings.Contains(got, "golden") {
		t.Errorf("the root filesystem is %s", got)
	}
}

// TestDefaultESP has a disk so large that mkfs.vfat would make FAT32 of it, and
// ESPs of each kind of FAT.
func TestDefaultESP(t *testing.T) {
	_ = judge(t, "mkfs.ext4", "-V")
	file := writeFile(t, "tree", archive(t))
	for _, esp := range []int64{0, 8 << 20, 600 << 20} {
		out := filepath.Join(t.TempDir(), "disk")
		l := parse(t, fmt.Sprintf(`{"disk_size":4294967296,"esp_size":%d}`, esp))
		if err := tree.Make(t.Context(), tree.Config{Tree: file, Layout: l}, out); err != nil {
			t.Errorf("ESP of %d bytes: %v", esp, err)
			continue
		}
		judge(t, "sfdisk", "--verify", out)
		if err := os.Truncate(out, 1<<20+l.ESPSize); err != nil {
			t.Fatal(err)
		}
		part := filepath.Join(t.TempDir(), "esp")
		judge(t, "dd", "if="+out, "of="+part, "bs=1M", "skip=1", "conv=sparse", "status=none")
		judge(t, "truncate", "-s", fmt.Sprint(l.ESPSize), part)
		judge(t, "fsck.vfat", "-n", part)
	}
}

// TestFolder has a boot loader in the tree, and so all that starts it on the ESP.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"boot/vmlinuz": "kernel", "usr/lib/systemd/boot/efi/systemd-bootx64.efi": "loader", "etc/hostname": "golden\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "disk")
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	for name, want := range map[string]string{"EFI/BOOT/BOOTX64.EFI": "loader", "boot/vmlinuz": "kernel"} {
		if got := judge(t, "mtype", "-i", out+"@@1M", "::/"+name); got != want {
			t.Errorf("%s on the ESP is %q", name, got)
		}
	}
	if got := judge(t, "mtype", "-i", out+"@@1M", "::/loader/entries/huck.conf"); !strings.Contains(got, "linux /boot/vmlinuz\n") || strings.Contains(got, "initrd") {
		t.Errorf("entry: %s", got)
	}
	if got := content(t, out, "/etc/hostname"); got != "golden\n" {
		t.Errorf("content %q", got)
	}
	if got := inode(t, out, "/"); !strings.Contains(got, "0755") {
		t.Errorf("the root folder: %s", got)
	}

	// What the tree has, is left alone.
	if err := os.MkdirAll(filepath.Join(dir, "boot/grub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot/grub/grub.cfg"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "disk")
	if err := tree.Make(t.Context(), tree.Config{Tree: dir, Layout: layout(t)}, again); err != nil {
		t.Fatal(err)
	}
	sound(t, again)
	if got := judge(t, "debugfs", "-R", "ls /boot", fmt.Sprintf("%s?offset=%d", again, offset)); strings.Contains(got, "loader") {
		t.Errorf("an entry was written beside the tree's grub.cfg: %s", got)
	}
}

func TestRefused(t *testing.T) {
	nothing := archiveOf(t, header("etc/", tar.TypeDir, 0o755, 0))
	link := header("x", tar.TypeSymlink, 0o777, 0)
	link.Linkname = "/etc"
	node := header("dev/x", tar.TypeBlock, 0o600, 0)
	node.Devmajor, node.Devminor = 259, 70000
	tests := []struct {
		name, want string
		tree       []byte
		refused    bool
	}{
		{"no archive", "neither a folder nor", []byte("just a text"), true},
		{"xz cut short", "xz: exit status 1", xz(t, archive(t))[:200], false},
		{"xz flipped", "xz: exit status 1", flipped(xz(t, archive(t))), false},
		{"no kernel", "no kernel", nothing, true},
		{"cut within a file", "cut short", archive(t)[:2000], false},
		{"cut at a block", "cut short", archive(t)[:3072], false},
		{"out by a link", "escapes", archive(t, link, header("x/passwd", tar.TypeReg, 0o644, 0)), false},
		{"quotation mark", "quotation mark", archive(t, header(`a"b`, tar.TypeReg, 0o644, 0)), false},
		{"line feed", "control character", archive(t, header("a\nrm /boot", tar.TypeReg, 0o644, 0)), false},
		{"large device number", "dev/x: device 259 70000: ", archive(t, node), false},
		{"socket", "not known", archive(t, header("x", 's', 0o644, 0)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			err := tree.Make(t.Context(), tree.Config{Tree: writeFile(t, "tree", tt.tree), Layout: layout(t)}, filepath.Join(dir, "disk"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, new(*tree.Refused)) != tt.refused {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
				t.Errorf("left behind: %v, %v", files, err)
			}
		})
	}
	taken := writeFile(t, "disk", []byte("precious"))
	if err := tree.Make(t.Context(), tree.Config{Tree: t.TempDir(), Layout: layout(t)}, taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}
	if b, err := os.ReadFile(taken); string(b) != "precious" {
		t.Errorf("it is now %q, %v", b, err)
	}
}

// archiveOf makes an archive; its files say "more".
func archiveOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = "more"
		}
		h.Size = int64(len(text))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestNames sets what files with odd names have, many of them in one folder.
func TestNames(t *testing.T) {
	const many = 5000
	odd := []string{"opt/a b", "opt/ends with a blank ", "opt/<13>", "opt/\u00e9\u4e2d", "opt/debugfs: ls -p", "opt/" + strings.Repeat("x", 255), strings.Repeat(strings.Repeat("d", 200)+"/", 10) + "f"}
	var headers []*tar.Header
	for i, name := range odd {
		headers = append(headers, header(name, tar.TypeReg, 0o4751, 1000+i))
	}
	for i := range many {
		headers = append(headers, header(fmt.Sprintf("many/%d", i), tar.TypeReg, 0o640, i))
	}
	b := archive(t, headers...)
	out := filepath.Join(t.TempDir(), "disk")
	if err := tree.Make(t.Context(), tree.Config{Tree: writeFile(t, "tree", b), Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	for i, name := range odd {
		if got := inode(t, out, name); !strings.Contains(got, "Mode:  04751") || !strings.Contains(got, fmt.Sprintf("User:  %d ", 1000+i)) {
			t.Errorf("%q: %s", name, got)
		}
	}
	for _, i := range []int{0, 1234, many - 1} {
		if got := inode(t, out, fmt.Sprintf("many/%d", i)); !strings.Contains(got, "Mode:  0640") || !strings.Contains(got, fmt.Sprintf("User: %5d ", i)) {
			t.Errorf("%d: %s", i, got)
		}
	}
}

// TestUp has names that lead out of the tree; they count from its root.
func TestUp(t *testing.T) {
	out := filepath.Join(t.TempDir(), "disk")
	file := writeFile(t, "tree", archive(t, header("../../up", tar.TypeReg, 0o644, 0), header("/abs", tar.TypeReg, 0o644, 0)))
	if err := tree.Make(t.Context(), tree.Config{Tree: file, Layout: layout(t)}, out); err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	for _, name := range []string{"/up", "/abs"} {
		if got := content(t, out, name); got != "more" {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestParseLayout(t *testing.T) {
	l := parse(t, `{"disk_size":1073741824}`)
	if l.ESPSize != 128<<20 || l.RootFilesystem != "ext4" || l.RootLabel != "root" || l.RootUUID != "" {
		t.Errorf("defaults %+v", l)
	}
	for _, text := range []string{
		``, `{}`, `{"disk_size":1}`, `{"disk_size":1073741825}`, `{"disk_size":150994944}`, `{"disk_size":-1048576}`, `{"disk_size":9223372036853727232}`,
		`{"disk_size":1073741824,"esp_size":-1048576}`, `{"disk_size":1073741824,"root_filesystem":"xfs"}`, `{"disk_size":1073741824,"swap":1}`,
		`{"disk_size":1073741824,"root_uuid":"x"}`, `{"disk_size":1073741824,"root_label":"12345678901234567"}`, `{"disk_size":1073741824,"cmdline":"a\nlinux /b"}`,
	} {
		if l, err := tree.ParseLayout(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken as %+v", text, l)
		}
	}
}
