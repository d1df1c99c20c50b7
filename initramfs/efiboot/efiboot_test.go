package efiboot_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/u-root/u-root/pkg/efivarfs"

	"huck/initramfs/efiboot"
)

// firmware holds variables as a machine does.
type firmware map[string][]byte

var namespace = uuid.MustParse("8be4df61-93ca-11d2-aa0d-00e098032b8c")

func (f firmware) Get(d efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error) {
	b, ok := f[d.Name]
	if !ok || d.GUID != namespace {
		return 0, nil, efivarfs.ErrVarNotExist
	}
	return 7, b, nil
}

func (f firmware) Set(d efivarfs.VariableDescriptor, a efivarfs.VariableAttributes, b []byte) error {
	if a != 7 || d.GUID != namespace {
		return errors.New("a boot variable with other attributes or elsewhere")
	}
	f[d.Name] = b
	return nil
}

func (f firmware) List() ([]efivarfs.VariableDescriptor, error) {
	list := []efivarfs.VariableDescriptor{{Name: "Boot0000"}} // of somebody else's namespace
	for name := range f {
		list = append(list, efivarfs.VariableDescriptor{Name: name, GUID: namespace})
	}
	return list, nil
}

var esp = efiboot.Partition{Number: 1, UUID: "11223344-5566-7788-99aa-bbccddeeff00", Start: 1 << 20, Size: 64 << 20, Sector: 512}

const shim = `\EFI\debian\shimx64.efi`

// pxe is a firmware's own entry, which has no file in it.
func pxe() []byte { return []byte("\x01\x00\x00\x00\x04\x00P\x00X\x00E\x00\x00\x00\x7f\xff\x04\x00") }

// TestSetEntry: the bytes are those of UEFI 2.10, and the network stays first.
func TestSetEntry(t *testing.T) {
	f := firmware{"Boot0000": pxe(), "Boot0003": pxe(), "BootOrder": {3, 0, 0, 0}, "BootCurrent": {3, 0}, "Boot00ff": {1}, "BootXXXX": nil}
	n, err := efiboot.SetEntry(f, esp, shim)
	if err != nil || n != 1 {
		t.Fatalf("entry %d, %v", n, err)
	}
	want := "\x01\x00\x00\x00" + "\x62\x00" + text(efiboot.Description) +
		"\x04\x01\x2a\x00" + "\x01\x00\x00\x00" + "\x00\x08\x00\x00\x00\x00\x00\x00" + "\x00\x00\x02\x00\x00\x00\x00\x00" +
		"\x44\x33\x22\x11\x66\x55\x88\x77\x99\xaa\xbb\xcc\xdd\xee\xff\x00" + "\x02\x02" +
		"\x04\x04\x34\x00" + text(shim) + "\x7f\xff\x04\x00"
	if got := string(f["Boot0001"]); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := f["BootOrder"]; !slices.Equal(got, []byte{3, 0, 1, 0, 0, 0}) {
		t.Errorf("boot order %v", got)
	}
	// The same once more changes nothing.
	if n, err := efiboot.SetEntry(f, esp, shim); err != nil || n != 1 || len(f["BootOrder"]) != 6 {
		t.Errorf("again: entry %d, %v, order %v", n, err, f["BootOrder"])
	}
	// Another system takes the same entry, and an operator's order stays.
	f["BootOrder"] = []byte{1, 0, 3, 0}
	n, err = efiboot.SetEntry(f, esp, `\EFI\fedora\shimx64.efi`)
	if err != nil || n != 1 || !strings.Contains(string(f["Boot0001"]), text("fedora")[:12]) || !slices.Equal(f["BootOrder"], []byte{1, 0, 3, 0}) {
		t.Errorf("another system: entry %d, %v, %q, order %v", n, err, f["Boot0001"], f["BootOrder"])
	}
	if err := efiboot.StartNext(f, n); err != nil || !slices.Equal(f["BootNext"], []byte{1, 0}) {
		t.Errorf("next: %v, %v", f["BootNext"], err)
	}
}

// TestSetEntryForeign: an entry of the system's own for the same file will do.
func TestSetEntryForeign(t *testing.T) {
	f := firmware{}
	if _, err := efiboot.SetEntry(f, esp, shim); err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(string(f["Boot0000"]), text(efiboot.Description), text("debian"), 1)
	f = firmware{"Boot0007": []byte(own + "optional data")}
	if n, err := efiboot.SetEntry(f, esp, shim); err != nil || n != 7 || len(f) != 2 || !slices.Equal(f["BootOrder"], []byte{7, 0}) {
		t.Errorf("entry %d, %v, %v", n, err, f)
	}
}

func TestSetEntryRefuses(t *testing.T) {
	f := firmware{}
	bad := esp
	bad.UUID = "none"
	if _, err := efiboot.SetEntry(f, bad, shim); err == nil || len(f) != 0 {
		t.Errorf("a partition without a UUID: %v, %v", err, f)
	}
}

// FuzzSetEntry: whatever the firmware's own entries are, ours is made beside
// them.
func FuzzSetEntry(f *testing.F) {
	f.Add(pxe())
	f.Add([]byte("\x01\x00\x00\x00\xff\xffP\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		vars := firmware{"Boot0000": b, "BootOrder": b, "BootCurrent": b}
		n, err := efiboot.SetEntry(vars, esp, shim)
		if err != nil || len(vars[efibootName(n)]) == 0 {
			t.Errorf("entry %d, %v", n, err)
		}
	})
}

func efibootName(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

func text(s string) string {
	var b strings.Builder
	for _, c := range s + "\x00" {
		b.WriteByte(byte(c))
		b.WriteByte(0)
	}
	return b.String()
}

func TestLoader(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  string
		// there are the files of the fallback's folder afterwards, and from is
		// what the fallback is a copy of.
		there []string
		from  string
	}{
		{"shim before GRUB", []string{"EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi", "EFI/debian/grub.cfg"}, `\EFI\debian\shimx64.efi`,
			[]string{"BOOTX64.EFI", "grubx64.efi"}, "EFI/debian/shimx64.efi"},
		{"a fallback stays", []string{"EFI/fedora/grubx64.efi", "EFI/Boot/bootx64.efi"}, `\EFI\fedora\grubx64.efi`, nil, ""},
		{"only the fallback", []string{"EFI/BOOT/BOOTX64.EFI"}, `\EFI\BOOT\BOOTX64.EFI`, []string{"BOOTX64.EFI"}, "EFI/BOOT/BOOTX64.EFI"},
		{"Windows", []string{"EFI/Microsoft/Boot/bootmgfw.efi"}, `\EFI\Microsoft\Boot\bootmgfw.efi`, []string{"BOOTX64.EFI"}, "EFI/Microsoft/Boot/bootmgfw.efi"},
		{"nothing known", []string{"EFI/vendor/tool.efi", "EFI/x"}, "", nil, ""},
		{"empty", nil, "", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range tt.files {
				path := filepath.Join(dir, f)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(f), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			got, err := efiboot.Loader(root)
			if got != tt.want || (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, efiboot.ErrNoLoader) {
				t.Fatalf("got %q, %v", got, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI")); tt.there == nil && err == nil {
				t.Error("a fallback has been made")
			}
			for _, f := range tt.there {
				b, err := os.ReadFile(filepath.Join(dir, "EFI/BOOT", f))
				if err != nil || f == "BOOTX64.EFI" && string(b) != tt.from {
					t.Errorf("%s: %q, %v", f, b, err)
				}
			}
		})
	}
}
