package install_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/disk/disktest"
	"huck/imager/image"
	"huck/imager/install/prooftest"
)

// TestProofLVM has ext4 and XFS in linear volumes of a physical one, one of them
// in two pieces: the image has what the filesystems use, and no more.
func TestProofLVM(t *testing.T) {
	disktest.NeedRoot(t)
	needKernel(t, "ext4")
	needKernel(t, "xfs")
	const (
		extents = 2 * mib // from where the partition's extents begin, on the disk
		first   = 64 * mib
		xfs     = 320 * mib
		second  = 32 * mib
	)
	p := proof{size: 480, sector: 512}
	source, start := p.disk(t)
	pv, detach := attach(t, source, start, p.size*mib, 512)
	lvm(t, pv, "pvcreate --dataalignment 1m", "vgcreate --physicalextentsize 4m vg0",
		"lvcreate -an -Zn -Wn -L 64m -n root vg0", "lvcreate -an -Zn -Wn -L 320m -n data vg0", "lvextend -L 96m vg0/root")
	detach()
	// data is in one piece; what root has more lies behind it. It is put together
	// in a file, as no device-mapper is here.
	root := inMemory(t)
	if err := os.WriteFile(root, make([]byte, first+second), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", root)
	dev, detach := attach(t, root, 0, first+second, 512)
	mounted(t, dev, "ext4", "rw", func(dir string) { must(t, prooftest.Populate(dir), prooftest.RemoveGone(dir)) })
	used := usedByItself(t, "ext4", dev)
	detach()
	b, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(source, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, piece := range map[int64][]byte{extents: b[:first], extents + first + xfs: b[first:]} {
		if _, err := f.WriteAt(piece, at); err != nil {
			t.Fatal(err)
		}
	}
	dev, detach = attach(t, source, extents+first, xfs, 512)
	tool(t, "mkfs.xfs", "-q", "-f", dev)
	mounted(t, dev, "xfs", "rw", func(dir string) { must(t, prooftest.Populate(dir), prooftest.RemoveGone(dir)) })
	used += usedByItself(t, "xfs", dev)
	detach()

	img, st, _ := p.capture(t, source)
	found := img.Manifest.Partitions[0]
	if found.Content != "LVM2_member" || found.Whole != "" || (found.UsedBytes-used)*50 > used || found.UsedBytes < used {
		t.Errorf("captured %+v, %d bytes used by themselves", found, used)
	}
	if n := occurrences(t, img, st); n != 0 {
		t.Errorf("the image holds %d pieces of deleted files", n)
	}
	target := p.install(t, source, img, st)
	if b, err = os.ReadFile(target); err != nil {
		t.Fatal(err)
	}
	again := inMemory(t)
	if err := os.WriteFile(again, append(bytes.Clone(b[extents:extents+first]), b[extents+first+xfs:][:second]...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind, was, is string
		at, n         int64
	}{{"ext4", root, again, 0, first + second}, {"xfs", source, target, extents + first, xfs}} {
		var states [2]string
		for i, file := range []string{c.was, c.is} {
			dev, detach := attach(t, file, c.at, c.n, 512)
			wantSound(t, c.kind, dev)
			mounted(t, dev, c.kind, "ro", func(dir string) { states[i] = treeState(t, dir) })
			detach()
		}
		must(t, prooftest.Same(states[0], states[1]))
	}
	dev, detach = attach(t, target, start, p.size*mib, 512)
	defer detach()
	if out := lvm(t, dev, "vgck vg0", "lvs --noheadings -o lv_name,lv_size --units m"); !strings.Contains(out, "root  96.00m") || !strings.Contains(out, "data 320.00m") {
		t.Errorf("lvs: %s", out)
	}
}

// lvm runs command lines of lvm(8) that see one device only and activate
// nothing; the first two get it as an argument.
func lvm(t *testing.T, dev string, lines ...string) (out string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("LVM_SYSTEM_DIR", dir)
	t.Setenv("LVM_SUPPRESS_FD_WARNINGS", "1")
	config := fmt.Sprintf(`devices { dir=%q scan=["/dev"] use_devicesfile=0 hints="none" filter=["a|^%s$|","r|.*|"] obtain_device_list_from_udev=0 external_device_info_source="none" }`+
		` global { activation=0 use_lvmpolld=0 locking_dir=%q } backup { backup=0 archive=0 }`, dir, dev, dir)
	for _, line := range lines {
		args := append(strings.Fields(line), "--config", config)
		if strings.HasPrefix(line, "pvcreate") || strings.HasPrefix(line, "vgcreate") {
			args = append(args, dev)
		}
		out = tool(t, "lvm", args...)
	}
	return out
}

// TestProofWhole has partitions that are taken whole, and swap, of which only
// the header is: on the target all of that is as it was.
func TestProofWhole(t *testing.T) {
	disktest.NeedRoot(t)
	for _, c := range []struct {
		name, content string
		make          func(dev string)
		same          int64 // bytes; all if 0
	}{
		{"LUKS", "crypto_LUKS", func(dev string) {
			key := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(key, []byte("key"), 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "cryptsetup", "luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, dev)
		}, 0},
		{"MD", "linux_raid_member", func(dev string) {
			f, err := os.OpenFile(dev, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("\xfc\x4e\x2b\xa9\x01\x00\x00\x00"), 4096); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"unknown", "unknown", func(string) {}, 0},
		{"swap", "swap", func(dev string) { tool(t, "mkswap", "-U", "11111111-2222-3333-4444-555555555555", dev) }, 4096},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := proof{size: 32, sector: 512}
			source, start := p.disk(t)
			b := make([]byte, p.size*mib)
			random(b, 77)
			f, err := os.OpenFile(source, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(b, start); err != nil {
				t.Fatal(err)
			}
			dev, detach := attach(t, source, start, p.size*mib, 512)
			c.make(dev)
			detach()
			img, st, _ := p.capture(t, source)
			found := img.Manifest.Partitions[0]
			if found.Content != c.content || (found.Whole == "") != (c.same != 0) {
				t.Errorf("captured %+v", found)
			}
			n := p.size * mib
			if c.same != 0 {
				n = c.same
			}
			if want := (n + image.BlockSize - 1) / image.BlockSize * image.BlockSize; found.UsedBytes != want {
				t.Errorf("%d bytes used, want %d", found.UsedBytes, want)
			}
			target := p.install(t, source, img, st)
			tool(t, "cmp", "-i", fmt.Sprint(start), "-n", fmt.Sprint(n), source, target)
		})
	}
}

// TestProofPaging has Windows' paging files, whose contents are left out on
// request only. Files of such names elsewhere are like any other.
func TestProofPaging(t *testing.T) {
	disktest.NeedRoot(t)
	p := proof{kind: "ntfs", size: 64, sector: 512}
	source, start := p.disk(t)
	dev, detach := attach(t, source, start, p.size*mib, 512)
	tool(t, "mkntfs", "-q", "-F", "-Q", "-p", "2048", "-H", "255", "-S", "63", dev)
	const size = 3*mib + 1000
	byFUSE(t, "ntfs-3g", dev, "rw", func(dir string) {
		b := bytes.Repeat([]byte(prooftest.Gone), size/len(prooftest.Gone)+1)[:size]
		clear(b[:4096])
		other := make([]byte, size)
		random(other, 4)
		for name, content := range map[string][]byte{"pagefile.sys": b, "Swapfile.SYS": b, "hiberfil.sys": b, "other": other, "d/pagefile.sys": other} {
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	})
	detach()
	img, st, all := p.capture(t, source)
	if n := occurrences(t, img, st) * int64(len(prooftest.Gone)); n < 3*(size-5000) {
		t.Errorf("without being asked for, %d bytes of paging files are in the image", n)
	}
	p.skipPaging = true
	img, st, res := p.capture(t, source)
	if n := occurrences(t, img, st); n != 0 || all.ImageBytes-res.ImageBytes < 3*(size-4096) || all.ImageBytes-res.ImageBytes > 3*(size+4096) {
		t.Errorf("the image has %d bytes and %d pieces of paging files, with them %d", res.ImageBytes, n, all.ImageBytes)
	}
	target := p.install(t, source, img, st)
	a, detachA := attach(t, source, start, p.size*mib, 512)
	defer detachA()
	b, detachB := attach(t, target, start, p.size*mib, 512)
	defer detachB()
	wantSound(t, "ntfs", b)
	var was [2][]byte
	for i, dev := range []string{a, b} {
		byFUSE(t, "ntfs-3g", dev, "ro", func(dir string) {
			for _, name := range []string{"other", "d/pagefile.sys"} {
				content, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || len(content) != size {
					t.Fatalf("%d bytes, %v", len(content), err)
				}
				was[i] = append(was[i], content...)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "hiberfil.sys")); err != nil || len(b) != size || len(bytes.Trim(b[:4096], "\x00")) != 0 {
				t.Errorf("hiberfil.sys has %d bytes, not awake, %v", len(b), err)
			}
		})
	}
	if !bytes.Equal(was[0], was[1]) {
		t.Error("files differ")
	}
}
