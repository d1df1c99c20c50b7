package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/archive"
)

func TestImportClonezillaRefused(t *testing.T) {
	t.Parallel()
	good := gptFolder(t)
	edit := func(name string, change func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, name), change(get(t, filepath.Join(dir, name))))
		}
	}
	without := func(name string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { remove(t, filepath.Join(dir, name)) }
	}
	with := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { put(t, filepath.Join(dir, name), []byte(text)) }
	}
	for _, c := range []struct {
		name    string
		refused bool
		want    string
		change  func(t *testing.T, dir string)
	}{
		{"encrypted", true, "ocs-decrypt-img", with("ecryptfs.info", "disk_of_img=sda\n")},
		{"LVM", true, "LVM volumes", with("lvm_vg_dev.list", "vg /dev/sda2 x\n")},
		{"LUKS", true, "LUKS", with("luks-dev.list", "/dev/sda2 x y\n")},
		{"partitions only", true, "no whole disk", without("disk")},
		{"two disks", true, "disks sda, sdb", with("disk", "sda sdb\n")},
		{"no disk", true, "names none", with("disk", "\n")},
		{"a name that climbs", false, "has the name", with("disk", "../sda\n")},
		{"no content", true, "no image of sda2", func(t *testing.T, dir string) {
			for _, x := range []string{"aa", "ab", "ac"} {
				remove(t, filepath.Join(dir, "sda2.ext4-ptcl-img.gz."+x))
			}
		}},
		{"ntfsclone", true, "ntfsclone", with("sda2.ntfs-img.aa", "")},
		{"two images", true, "more than one image of sda2", with("sda2.dd-img", "")},
		{"sectors of 4096 bytes", true, "sectors of 4096 bytes", with("sda-pt.parted", "Disk /dev/sda: 16384s\nSector size (logical/physical): 4096B/4096B\n")},
		{"a small disk", false, "the partitions end", with("sda-pt.parted", "Disk /dev/sda: 2048s\n")},
		{"no dump", true, "neither sda-pt.sf", without("sda-pt.sf")},
		{"no MBR", false, "sda-mbr", without("sda-mbr")},
		{"half an MBR", false, "256 bytes", edit("sda-mbr", func(b []byte) []byte { return b[:256] })},
		{"no GPT", false, "sda-gpt-1st", without("sda-gpt-1st")},
		{"broken GPT", false, "sda-gpt-1st", edit("sda-gpt-1st", func(b []byte) []byte { b[1100] ^= 1; return b })},
		{"short GPT", false, "entries end", edit("sda-gpt-1st", func(b []byte) []byte { return b[:4096] })},
		{"large gap", false, "room for", edit("sda-hidden-data-after-mbr", func(b []byte) []byte { return append(b, 0) })},
		{"another table", false, "the saved table has", edit("sda-pt.sf", func(b []byte) []byte {
			return bytes.Replace(b, []byte("size=       49152"), []byte("size=       49144"), 1)
		})},
		{"a missing piece", false, "gz.ab is not there", without("sda2.ext4-ptcl-img.gz.ab")},
		{"no last piece", false, "cut short", without("sda2.ext4-ptcl-img.gz.ac")},
		{"flipped bit", false, "sda2.ext4-ptcl-img.gz.aa", edit("sda2.ext4-ptcl-img.gz.ab", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })},
		{"wrong program", true, "lrzip -d", edit("sda2.ext4-ptcl-img.gz.aa", func(b []byte) []byte { copy(b, "LRZI"); return b })},
		{"too large a filesystem", false, "for a partition of", func(t *testing.T, dir string) {
			for _, x := range []string{"aa", "ab", "ac"} {
				name := filepath.Join(dir, "sda1.vfat-ptcl-img.gz."+x)
				put(t, name, get(t, filepath.Join(dir, "sda2.ext4-ptcl-img.gz."+x)))
			}
		}},
		{"too small an image of dd", false, "cut short", with("sda5.dd-img.aa", "x")},
		{"bad swap", false, "swappt-sda3.info", with("swappt-sda3.info", "UUID=\"x\"\n")},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good.dir)); err != nil {
				t.Fatal(err)
			}
			c.change(t, dir)
			s := newMemStore()
			_, err := importInto(t, s, dir)
			var refused *archive.Refused
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &refused) != c.refused {
				t.Errorf("want %q: %v", c.want, err)
			}
			if len(s.tags) != 0 || len(s.images) != 0 {
				t.Error("something was imported")
			}
		})
	}
}

// TestImportPieces: of one partition's image all pieces are wanted, too, and it is
// no disk for those who do not import it.
func TestImportPieces(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(gptFolder(t).dir)); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "sda2.ext4-ptcl-img.gz.aa")
	remove(t, filepath.Join(dir, "sda2.ext4-ptcl-img.gz.ab"))
	if _, err := importInto(t, newMemStore(), first); err == nil || !strings.Contains(err.Error(), "gz.ab is not there") {
		t.Errorf("a piece lacks: %v", err)
	}
	plain := filepath.Join(dir, "image")
	put(t, plain, []byte("partclone-image\x000.3.20"))
	for _, file := range []string{first, plain} {
		var refused *archive.Refused
		if err := archive.CheckRaw(file); !errors.As(err, &refused) {
			t.Errorf("%s is a disk: %v", file, err)
		}
	}
}
