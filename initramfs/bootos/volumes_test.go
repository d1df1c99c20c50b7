package bootos_test

import (
	"encoding/binary"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"huck/imager/usedmap/lvm"
	"huck/initramfs/bootos"
)

// TestSeparateBoot: /boot is a partition of its own and / a logical volume that
// cannot be looked into.
func TestSeparateBoot(t *testing.T) {
	cfg := "set root='hd0,gpt2'\nsearch --no-floppy --fs-uuid --set=root " + debianUUID + "\nmenuentry L {\nlinux /vmlinuz root=/dev/mapper/vg-root ro\ninitrd /initrd.img\n}\n"
	e, err := bootos.Find([]bootos.Volume{tree(1, "1234-abcd"), tree(2, debianUUID, file("grub/grub.cfg", cfg), "vmlinuz", "initrd.img")})
	if err != nil || e.Kernel != (bootos.File{Volume: 1, Path: "vmlinuz"}) || e.Cmdline != "root=/dev/mapper/vg-root ro" || len(e.Initrds) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestLogicalVolume: GRUB finds / in a logical volume by either of its names.
func TestLogicalVolume(t *testing.T) {
	names := bootos.GRUBNames(lvm.Volume{Group: "my-vg", Name: "root", GroupID: "aaaa-bb", ID: "cccc-dd"})
	for _, root := range []string{"lvmid/aaaa-bb/cccc-dd", "lvm/my--vg-root"} {
		swap, lv := tree(0, ""), tree(0, debianUUID, file("boot/grub/grub.cfg", "menuentry L {\nset root='"+root+"'\nlinux /boot/vmlinuz x\n}\n"), "boot/vmlinuz")
		swap.Names, lv.Names = []string{"lvmid/aaaa-bb/swap"}, names
		e, err := bootos.Find([]bootos.Volume{tree(1, "1234-abcd"), swap, lv})
		if err != nil || e.Kernel != (bootos.File{Volume: 2, Path: "boot/vmlinuz"}) {
			t.Errorf("%s: %+v, %v", root, e, err)
		}
	}
}

// TestMapperRequest decodes what the device-mapper is asked, by the layout in
// Linux, include/uapi/linux/dm-ioctl.h.
func TestMapperRequest(t *testing.T) {
	v := lvm.Volume{Pieces: []lvm.Piece{{Offset: 1 << 20, Size: 8 << 20}, {Offset: 64 << 20, Size: 4 << 20}}}
	table := bootos.DMTable(v, unix.Mkdev(259, 3))
	b := bootos.DMRequest("a-name", bootos.DMReadOnly, table)
	ne := binary.NativeEndian
	if bootos.DMLoad != 0xc138fd09 || ne.Uint32(b) != 4 || ne.Uint32(b[12:]) != uint32(len(b)) || ne.Uint32(b[16:]) != 312 || ne.Uint32(b[28:]) != 1 || string(b[48:55]) != "a-name\x00" {
		t.Errorf("ioctl %x with header %x", bootos.DMLoad, b[:312])
	}
	var at uint64
	rest := b[312:]
	for i, want := range []string{"259:3 2048", "259:3 131072"} {
		if len(rest) < 40 || int(ne.Uint32(rest[20:])) > len(rest) || ne.Uint32(rest[20:])%8 != 0 {
			t.Fatalf("target %d: %x", i, rest)
		}
		params, _, _ := strings.Cut(string(rest[40:ne.Uint32(rest[20:])]), "\x00")
		if ne.Uint64(rest) != at || string(rest[24:31]) != "linear\x00" || params != want || int64(ne.Uint64(rest[8:]))*512 != v.Pieces[i].Size {
			t.Errorf("target %d: %q from %d, %d long", i, params, ne.Uint64(rest), ne.Uint64(rest[8:]))
		}
		at, rest = at+ne.Uint64(rest[8:]), rest[ne.Uint32(rest[20:]):]
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes more", len(rest))
	}
}

// TestBtrfs has /boot in a subvolume, which the configuration calls by its path
// from the top or, where it is the default one, from its own root.
func TestBtrfs(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	for _, name := range []string{"mkfs.btrfs", "btrfs", "losetup", "mount", "unshare"} {
		tool(t, name)
	}
	for _, c := range []struct{ name, script, path, kernel string }{
		{"below the top", "", "/@/boot/vmlinuz", "@/boot/vmlinuz"},
		{"the default", `btrfs subvolume set-default "$1/@"`, "/@/boot/vmlinuz", "@/boot/vmlinuz"},
		{"from the default", `btrfs subvolume set-default "$1/@"; btrfs subvolume snapshot "$1/@" "$1/@/snap"`, "/boot/vmlinuz", "boot/vmlinuz"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, at := filepath.Join(t.TempDir(), "img"), t.TempDir()
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, 128<<20); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.btrfs", "-q", img)
			run(t, "unshare", "--mount", "--propagation", "private", "sh", "-ec", `mount -o loop "$2" "$1"; mkdir "$1/home"; btrfs subvolume create "$1/@"; mkdir -p "$1/@/boot/grub"
				echo kernel >"$1/@/boot/vmlinuz"; printf 'menuentry L {\nlinux %s rootflags=subvol=@\n}\n' "$3" >"$1/@/boot/grub/grub.cfg"; `+c.script+`
				umount "$1"`, "sh", at, img, c.path)
			dev := run(t, "losetup", "-f", "--show", "-r", img)
			defer func() {
				if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			}()
			d, err := bootos.Mount(dev, t.TempDir(), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}()
			e, err := bootos.Find(d.Volumes)
			if err != nil || e.Kernel.Path != c.kernel || e.Cmdline != "rootflags=subvol=@" {
				t.Errorf("%+v, %v", e, err)
			}
		})
	}
}
