package uki_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/build/uki"
	"huck/build/uki/ukitest"
)

func sections() []uki.Section {
	return []uki.Section{
		{Name: uki.CommandLine, Data: []byte("console=tty0\x00")},
		{Name: uki.Initramfs, Data: bytes.Repeat([]byte("i"), 5000)},
		{Name: uki.Kernel, Data: bytes.Repeat([]byte("k"), 0x200)},
	}
}

// The result is read by a reader that is not ours.
func TestAppend(t *testing.T) {
	image, err := uki.Append(ukitest.Stub(), sections())
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	end := uint32(0x1123) // of the stub's code in memory
	for _, s := range sections() {
		got := f.Section(s.Name)
		if got == nil {
			t.Fatalf("no section %s", s.Name)
		}
		data, err := got.Data()
		if err != nil || !bytes.Equal(data[:got.VirtualSize], s.Data) {
			t.Errorf("%s holds %d bytes, %v, want %d", s.Name, got.VirtualSize, err, len(s.Data))
		}
		if got.VirtualAddress < end || got.VirtualAddress%4096 != 0 || got.Offset%0x200 != 0 || got.Size%0x200 != 0 {
			t.Errorf("%s stands at %#x in memory, at %#x in the file, %#x bytes", s.Name, got.VirtualAddress, got.Offset, got.Size)
		}
		end = got.VirtualAddress + got.VirtualSize
	}
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	if o.SizeOfImage < end || o.SizeOfImage%4096 != 0 || o.CheckSum != 0 || f.NumberOfSymbols != 0 {
		t.Errorf("image of %#x bytes, want %#x; checksum %#x, %d symbols", o.SizeOfImage, end, o.CheckSum, f.NumberOfSymbols)
	}
	if code, err := f.Section(".text").Data(); err != nil || !bytes.HasPrefix(code, []byte("the stub's code")) {
		t.Errorf("the stub's own section: %v", err)
	}
	again, err := uki.Append(ukitest.Stub(), sections())
	if err != nil || !bytes.Equal(image, again) {
		t.Errorf("a second time the bytes differ (%v)", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	stub := ukitest.Stub()
	set := func(at int, v uint32) []byte {
		b := slices.Clone(stub)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	const h, o, s = 0x40, 0x40 + 24, 0x40 + 24 + 240
	one := sections()[:1]
	many := slices.Repeat([]uki.Section{{Name: ".a", Data: []byte{1}}}, 20)
	for i := range many {
		many[i].Name += string(rune('a' + i))
	}
	for _, tt := range []struct {
		name     string
		stub     []byte
		sections []uki.Section
		want     string
	}{
		{"empty", nil, one, "no PE file"},
		{"a kernel of another kind", []byte("\x7fELF" + strings.Repeat("\x00", 100)), one, "no PE file"},
		{"header far away", set(0x3c, 0xffffff00), one, "no PE header"},
		{"no header", set(h, 0), one, "no PE header"},
		{"32 bits", set(o, 0x10b), one, "PE32+"},
		{"headers beyond the file", set(o+60, 1<<20), one, "do not hold"},
		{"headers before their own", set(o+60, 0x10), one, "do not hold"},
		{"short optional header", set(h+20, 6), one, "optional header of 6 bytes"},
		{"odd alignment", set(o+36, 0x201), one, "aligned"},
		{"section beyond the file", set(s+20, 0xfffffff0), one, "leads out of the file"},
		{"no name", stub, []uki.Section{{Data: []byte{1}}}, "1 to 8 bytes"},
		{"a name too long", stub, []uki.Section{{Name: ".initramfs", Data: []byte{1}}}, "1 to 8 bytes"},
		{"nothing in it", stub, []uki.Section{{Name: uki.Kernel}}, "0 bytes"},
		{"twice", stub, append(sections(), one...), "has one already"},
		{"too many", stub, many, "no room"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := uki.Append(tt.stub, tt.sections); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzAppend(f *testing.F) {
	f.Add(ukitest.Stub())
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, stub []byte) {
		image, err := uki.Append(stub, sections())
		if err == nil && len(image) > len(stub)+1<<16 {
			t.Errorf("%d bytes of a stub of %d", len(image), len(stub))
		}
	})
}

// write puts an image of small parts together in a folder of its own.
func write(t *testing.T, change func(*uki.Options)) (uki.Options, error) {
	t.Helper()
	dir := t.TempDir()
	o := uki.Options{
		Stub: filepath.Join(dir, "stub"), Kernel: filepath.Join(dir, "kernel"), Initramfs: filepath.Join(dir, "initramfs"),
		CommandLine: "console=tty0", Out: filepath.Join(dir, "out.efi"),
	}
	for path, text := range map[string][]byte{o.Stub: ukitest.Stub(), o.Kernel: []byte("kernel"), o.Initramfs: []byte("initramfs")} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change(&o)
	return o, uki.Write(t.Context(), o)
}

func TestWrite(t *testing.T) {
	o, err := write(t, func(*uki.Options) {})
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.Open(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string]string{
		uki.OSRelease: "ID=huck\n", uki.CommandLine: "console=tty0\x00", uki.Initramfs: "initramfs", uki.Kernel: "kernel",
	} {
		if data, err := f.Section(name).Data(); err != nil || !bytes.HasPrefix(data, []byte(want)) {
			t.Errorf("%s holds %.40q, %v", name, data, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*uki.Options)
		want   string
	}{
		"no stub":              {func(o *uki.Options) { o.Stub += "-gone" }, "bootstrap.sh netboot"},
		"no kernel":            {func(o *uki.Options) { o.Kernel += "-gone" }, "kernel-gone"},
		"key only":             {func(o *uki.Options) { o.Key = "k" }, "SB_CERT"},
		"certificate only":     {func(o *uki.Options) { o.Certificate = "c" }, "SB_KEY"},
		"a stub that is no PE": {func(o *uki.Options) { o.Stub = o.Kernel }, "no PE file"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := write(t, tt.change)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

// What is signed passes sbverify, and fails it when a byte of any section is another.
func TestSigned(t *testing.T) {
	for _, tool := range []string{"openssl", "sbsign", "sbverify"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		} else if err != nil {
			t.Skip(err)
		}
	}
	key, cert := filepath.Join(t.TempDir(), "key.pem"), filepath.Join(t.TempDir(), "cert.pem")
	run(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test/", "-keyout", key, "-out", cert)
	o, err := write(t, func(o *uki.Options) { o.Key, o.Certificate = key, cert })
	if err != nil {
		t.Fatal(err)
	}
	run(t, "sbverify", "--cert", cert, o.Out)
	image, err := os.ReadFile(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"the stub's code", "console=tty0", "initramfs", "kernel"} {
		bad := bytes.Replace(image, []byte(part), bytes.ToUpper([]byte(part)), 1)
		path := filepath.Join(t.TempDir(), "bad.efi")
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "sbverify", "--cert", cert, path).CombinedOutput(); err == nil {
			t.Errorf("with another %q it passes: %s", part, out)
		}
	}
	if _, err := write(t, func(o *uki.Options) { o.Key, o.Certificate = cert, cert }); err == nil || !strings.Contains(err.Error(), "sbsign") {
		t.Errorf("signed without a key: %v", err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
