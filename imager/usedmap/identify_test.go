package usedmap_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// TestIdentify: blkid is the judge.
func TestIdentify(t *testing.T) {
	for _, tt := range []struct {
		content string
		size    int64
		mkfs    string
	}{
		{"ext4", 8 << 20, "mkfs.ext4 -q -L root"},
		{"ext4", 8 << 20, "mkfs.ext2 -q -L sixteen-bytes-ok"},
		{"vfat", 16 << 20, "mkfs.vfat -F 16 -n ESP"},
		{"vfat", 64 << 20, "mkfs.vfat -F 32 -n ESPSYS"},
		{"vfat", 64 << 20, "mkfs.vfat -F 32"},
		{"xfs", 320 << 20, "mkfs.xfs -q -L data"},
		{"btrfs", 128 << 20, "mkfs.btrfs -q -L longer-label"},
		{"f2fs", 64 << 20, "mkfs.f2fs -q"},
		{"ntfs", 16 << 20, "mkfs.ntfs -q -F"},
		{"exfat", 16 << 20, "mkfs.exfat"},
		{"swap", 8 << 20, "mkswap -q -L swapped"},
		{"crypto_LUKS", 32 << 20, "cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /proc/version"},
	} {
		t.Run(tt.mkfs, func(t *testing.T) {
			path := newFile(t, tt.size)
			args := append(strings.Fields(tt.mkfs), path)
			run(t, tool(t, args[0]), args[1:]...)
			id := identify(t, path)
			value := func(tag string) string {
				out, _ := try(t, "blkid", "-p", "-o", "value", "-s", tag, path)
				return strings.TrimSpace(out)
			}
			if id.Content != tt.content || id.UUID != value("UUID") || id.Label != value("LABEL") {
				t.Errorf("got %+v, blkid says %q %q", id, value("UUID"), value("LABEL"))
			}
		})
	}
}

func TestIdentifyGroup(t *testing.T) {
	g := newGroup(t, "", "")
	id := identify(t, g.files[0])
	res, err := probe(t, g.files[0])
	if err != nil {
		t.Fatal(err)
	}
	if id.Content != "LVM2_member" || id.UUID != res.UUID || id.Label != "vg0" || id.Label != res.Label {
		t.Errorf("got %+v, Probe %s %s %s", id, res.Content, res.UUID, res.Label)
	}
}

func TestIdentifyNothing(t *testing.T) {
	for _, text := range []string{"", "nothing", strings.Repeat("\x00", 200_000)} {
		if id, err := usedmap.Identify(strings.NewReader(text), int64(len(text))); err != nil || id != (usedmap.Identity{}) {
			t.Errorf("%d bytes: %+v, %v", len(text), id, err)
		}
	}
	if _, err := usedmap.Identify(broken{}, 1<<20); err == nil {
		t.Error("a disk that cannot be read has been identified")
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("sector not found") }

func identify(t *testing.T, path string) usedmap.Identity {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	id, err := usedmap.Identify(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return id
}
