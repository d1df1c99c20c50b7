package medium_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"huck/build/medium"
	"huck/build/uki"
	"huck/build/uki/ukitest"
	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/store"
)

// build makes a medium of small parts and returns its path and what was said.
func build(t *testing.T, change func(*medium.Options)) (iso, said string, err error) {
	t.Helper()
	const isolinux, syslinux = "/usr/lib/ISOLINUX", "/usr/lib/syslinux/modules/bios"
	for _, need := range []string{"xorriso", "mcopy", "mdir"} {
		if _, err := exec.LookPath(need); err != nil {
			skip(t, err)
		}
	}
	if _, err := os.Stat(isolinux); err != nil {
		skip(t, err)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var log strings.Builder
	o := medium.Options{
		UKI: uki.Options{Stub: file("stub", string(ukitest.Stub())), Kernel: file("kernel", "the kernel"),
			Initramfs: file("initramfs", "the initramfs"), CommandLine: "console=tty0"},
		Append: "huck.noverify", Tools: file("tools", "+tools"), ISOLINUX: isolinux, SYSLINUX: syslinux,
		Out: filepath.Join(dir, "huck.iso"),
		Log: func(format string, args ...any) { t.Logf(format, args...); log.WriteString(format) },
	}
	change(&o)
	err = medium.Write(t.Context(), o)
	return o.Out, log.String(), err
}

func skip(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("REQUIRE_TOOLS") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// unpack has another program read the filesystem.
func unpack(t *testing.T, iso string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	run(t, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", dir)
	run(t, "chmod", "-R", "u+w", dir) // for the test's own removal
	return dir
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWrite(t *testing.T) {
	iso, _, err := build(t, func(*medium.Options) {})
	if err != nil {
		t.Fatal(err)
	}
	raw := read(t, iso)
	name := strings.TrimRight(string(raw[16*2048+40:16*2048+72]), " ")
	if !strings.HasPrefix(name, api.MediumPrefix) {
		t.Errorf("the volume is called %q", name)
	}
	line := "console=tty0 huck.medium=" + name + " huck.noverify"
	tree := unpack(t, iso)
	if got := read(t, filepath.Join(tree, "boot/initramfs")); string(got) != "the initramfs+tools" {
		t.Errorf("initramfs %q", got)
	}
	if got := read(t, filepath.Join(tree, "isolinux/isolinux.cfg")); !strings.Contains(string(got), "append "+line+"\n") {
		t.Errorf("isolinux starts\n%s, want %q", got, line)
	}
	efi := filepath.Join(t.TempDir(), "boot.efi")
	run(t, "mcopy", "-i", filepath.Join(tree, "boot/efi.img"), "::/EFI/BOOT/BOOTX64.EFI", efi)
	f, err := pe.Open(efi)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for section, want := range map[string]string{uki.CommandLine: line + "\x00", uki.Initramfs: "the initramfs+tools", uki.Kernel: "the kernel"} {
		if got, err := f.Section(section).Data(); err != nil || !bytes.HasPrefix(got, []byte(want)) {
			t.Errorf("%s holds %q, %v, want %q", section, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "huck")); err == nil {
		t.Error("there is an assignment, and none was asked for")
	}
	// What firmware goes by on a stick: boot code, a signature, and a GPT.
	if bytes.Equal(raw[:32], make([]byte, 32)) || binary.LittleEndian.Uint16(raw[510:]) != 0xaa55 || string(raw[512:520]) != "EFI PART" {
		t.Errorf("no stick: boot sector ends %x, then %q", raw[510:512], raw[512:520])
	}
	// And on a CD: El Torito's record says where the catalogue is.
	if got := string(raw[17*2048+7 : 17*2048+30]); got != "EL TORITO SPECIFICATION" {
		t.Errorf("no CD: %q", got)
	}
}

// Two media differ in name where they differ in what they do.
func TestName(t *testing.T) {
	name := func(change func(*medium.Options)) string {
		iso, _, err := build(t, change)
		if err != nil {
			t.Fatal(err)
		}
		return string(read(t, iso)[16*2048+40 : 16*2048+72])
	}
	one := name(func(*medium.Options) {})
	if again := name(func(*medium.Options) {}); again != one {
		t.Errorf("the same twice is %q and %q", one, again)
	}
	if other := name(func(o *medium.Options) { o.Append = "huck.server=http://10.0.0.1:8480" }); other == one {
		t.Errorf("another command line is %q, too", one)
	}
}

func TestImage(t *testing.T) {
	for _, unattended := range []bool{false, true} {
		disk := filepath.Join(t.TempDir(), "My Disk.raw")
		content := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
		if err := os.WriteFile(disk, content, 0o644); err != nil {
			t.Fatal(err)
		}
		iso, said, err := build(t, func(o *medium.Options) {
			o.Image, o.Assign, o.Unattended = disk, api.Assignment{Disk: "smallest", Then: api.ThenPoweroff}, unattended
		})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said, "image %s") {
			t.Errorf("nothing is said of the image: %s", said)
		}
		tree := unpack(t, iso)
		var a api.Assignment
		if err := json.Unmarshal(read(t, filepath.Join(tree, api.MediumAssignment)), &a); err != nil {
			t.Fatal(err)
		}
		if err := a.CheckInstall(); err != nil || a.Confirm == unattended || a.Disk != "smallest" || a.Then != api.ThenPoweroff {
			t.Errorf("unattended %v: %+v, %v", unattended, a, err)
		}
		st, err := store.Open(filepath.Join(tree, api.MediumImages), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := image.ParseRef(a.Ref)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Resolve(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", a.Ref, err)
		}
		if r, err := st.Check(t.Context(), store.CheckOptions{ReadData: true, Found: func(f store.Finding) { t.Logf("%+v", f) }}); err != nil || r.Damaged != 0 || r.Chunks == 0 {
			t.Errorf("the store on the medium: %+v, %v", r, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*medium.Options)
		want   string
	}{
		"no kernel":    {func(o *medium.Options) { o.UKI.Kernel += "-gone" }, "kernel-gone"},
		"no isolinux":  {func(o *medium.Options) { o.ISOLINUX = t.TempDir() }, "bootstrap.sh netboot"},
		"no image":     {func(o *medium.Options) { o.Image, o.Assign.Disk, o.Assign.Then = "/nowhere/x.huck", "only", "reboot" }, "/nowhere/x.huck"},
		"no such rule": {func(o *medium.Options) { o.Image, o.Assign.Disk, o.Assign.Then = o.UKI.Stub, "sda", "reboot" }, `"sda"`},
		"no such end":  {func(o *medium.Options) { o.Image, o.Assign.Disk, o.Assign.Then = o.UKI.Stub, "only", "sleep" }, "sleep"},
		"half a key":   {func(o *medium.Options) { o.UKI.Key = "k" }, "SB_CERT"},
	} {
		t.Run(name, func(t *testing.T) {
			iso, _, err := build(t, tt.change)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(iso); err == nil {
				t.Error("there is a medium all the same")
			}
		})
	}
}
