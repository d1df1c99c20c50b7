package boot_test

import (
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"huck/bootserver/boot"
)

func folder(t testing.TB) boot.Folder {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "netboot")
	for name, body := range map[string]string{
		filepath.Join(dir, "vmlinuz"): "kernel", filepath.Join(dir, "sub", "file"): "in sub",
		filepath.Join(top, "secret"): "secret",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"inside": "vmlinuz", "outside": "../secret", "absolute": "/etc/passwd"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	return boot.Folder(dir)
}

func TestOpen(t *testing.T) {
	f := folder(t)
	for name, want := range map[string]string{
		"vmlinuz": "kernel", "/vmlinuz": "kernel", `\vmlinuz`: "kernel", `sub\file`: "in sub", "inside": "kernel",
	} {
		file, info, err := f.Open(name)
		if err != nil {
			t.Errorf("Open(%q): %v", name, err)
			continue
		}
		b, err := io.ReadAll(file)
		file.Close()
		if string(b) != want || err != nil || info.Size() != int64(len(want)) {
			t.Errorf("Open(%q) reads %q of %d bytes, %v", name, b, info.Size(), err)
		}
	}
	for _, name := range []string{"", "/", ".", "..", "../secret", "/../secret", `..\secret`, "sub/../../secret", "//../secret",
		"outside", "absolute", "pipe", "sub", "none", "vmlinuz/", "vmlinuz\x00", strings.Repeat("a/", 5000)} {
		file, _, err := f.Open(name)
		if err == nil {
			file.Close()
			t.Errorf("Open(%q) succeeded", name)
		}
	}
	if _, _, err := f.Open("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing = %v, want ErrNotExist", err)
	}
	if _, _, err := f.Open("../secret"); !errors.Is(err, boot.ErrName) {
		t.Errorf("Open outside = %v, want ErrName", err)
	}
	if got := f.Missing(boot.Kernel, boot.Initramfs, boot.BIOSLoader); !slices.Equal(got, []string{boot.Initramfs, boot.BIOSLoader}) {
		t.Errorf("Missing = %q", got)
	}
}

// FuzzOpen: whatever the name, only files of the folder come out.
func FuzzOpen(f *testing.F) {
	dir := folder(f)
	for _, s := range []string{"vmlinuz", "../secret", `..\..\etc\passwd`, "outside", "sub/file"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, info, err := dir.Open(name)
		if err != nil {
			return
		}
		defer file.Close()
		b, err := io.ReadAll(file)
		if s := string(b); err != nil || s != "kernel" && s != "in sub" || !info.Mode().IsRegular() {
			t.Fatalf("Open(%q) = %q, %v", name, b, err)
		}
	})
}

func TestScript(t *testing.T) {
	u, _ := url.Parse("http://10.0.0.1:8480")
	got := boot.Script(u, "quiet")
	for _, want := range []string{
		"#!ipxe\n",
		"\nkernel http://10.0.0.1:8480/boot/vmlinuz initrd=initramfs.cpio.zst huck.server=http://10.0.0.1:8480 BOOTIF=01-${netX/mac:hexhyp} console=tty0 console=ttyS0,115200 quiet || goto failed\n",
		"\ninitrd http://10.0.0.1:8480/boot/initramfs.cpio.zst || goto failed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("script lacks %q:\n%s", want, got)
		}
	}
	if got := boot.ScriptURL(u, "52:54:00:12:34:56"); got != "http://10.0.0.1:8480/boot/ipxe?mac=52-54-00-12-34-56" {
		t.Error(got)
	}
	v6, _ := url.Parse("http://[fd00::1]:8480")
	if got := boot.Script(v6, ""); !strings.Contains(got, "kernel http://[fd00::1]:8480/boot/vmlinuz ") {
		t.Error(got)
	}
}

func TestCheckAppend(t *testing.T) {
	for s, ok := range map[string]bool{"": true, "a=b c": true, "a\nb": false, "a || b": false, "x && y": false, "${net0/mac}": false} {
		if err := boot.CheckAppend(s); (err == nil) != ok {
			t.Errorf("CheckAppend(%q) = %v", s, err)
		}
	}
}

func TestLoaders(t *testing.T) {
	uefi := []string{boot.UKI, boot.UEFILoader}
	for arch, want := range map[uint16][]string{0: {boot.BIOSLoader}, 6: nil, 7: uefi, 9: uefi, 11: nil, 15: nil, 16: uefi} {
		if got := boot.Loaders(arch); !slices.Equal(got, want) {
			t.Errorf("Loaders(%d) = %q, want %q", arch, got, want)
		}
	}
	f := folder(t)
	if got := f.First("none", "sub", "inside", "vmlinuz"); got != "inside" {
		t.Errorf("First = %q", got)
	}
	if got := f.First("none"); got != "" {
		t.Errorf("First of nothing = %q", got)
	}
}
