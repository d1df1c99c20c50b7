package installed_test

import (
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/imager/disk/disktest"
	"huck/imager/personal"
	"huck/initramfs/bootos"
	"huck/initramfs/installed"
)

// TestMain lets the mounts of the tests be nobody else's.
func TestMain(m *testing.M) {
	disktest.OwnMounts()
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	list := []bootos.Filesystem{
		{Node: "/dev/vda1", Partition: 1, Kind: "vfat", UUID: "1234-abcd", Label: "ESP"},
		{Node: "/dev/vda2", Partition: 2, Kind: "ext4", UUID: "aaaa", Label: "root"},
		{Node: "/dev/vda3", Partition: 3, Kind: "btrfs", UUID: "bbbb", Label: "other"},
	}
	parts := map[int][2]string{1: {"p1", "esp"}, 2: {"p2", "linux"}, 3: {"p3", "data"}}
	for _, tt := range []struct {
		cmdline string
		roots   []int
		hint    *personal.Root
		want    string // or what the error says
	}{
		{"ro root=UUID=AAAA quiet", nil, nil, "partition 2 (ext4)"},
		{"root=LABEL=root", nil, nil, "partition 2 (ext4)"},
		{"root=PARTUUID=P2", nil, nil, "partition 2 (ext4)"},
		{"root=PARTLABEL=linux", nil, nil, "partition 2 (ext4)"},
		{"root=/dev/disk/by-uuid/aaaa", nil, nil, "partition 2 (ext4)"},
		{"root=/dev/sda2", nil, nil, "partition 2 (ext4)"},
		{"root=/dev/nvme0n1p2", nil, nil, "partition 2 (ext4)"},
		{"root=/dev/mmcblk0p2", nil, nil, "partition 2 (ext4)"},
		{"root=UUID=bbbb rootflags=compress=zstd,subvol=/@/snap", nil, nil, "partition 3 (btrfs) subvolume @/snap"},
		{"root=UUID=gone", []int{2}, nil, "partition 2 (ext4)"},
		{"", []int{2}, nil, "partition 2 (ext4)"},
		{"root=", []int{2}, nil, "partition 2 (ext4)"},
		{"root=LABEL=", []int{2}, nil, "partition 2 (ext4)"},
		{"root=/dev/mapper/vg-root", nil, nil, "/dev/mapper/vg-root"},
		{"", nil, nil, "no ext4, XFS or Btrfs"},
		{"", []int{2, 3}, nil, "2 filesystems"},
		{"root=UUID=aaaa", nil, &personal.Root{Partition: 3, Subvolume: "x"}, "partition 3 (btrfs) subvolume x"},
		{"root=UUID=aaaa", nil, &personal.Root{Partition: 4}, "partition 4"},
	} {
		got, err := installed.Choose(list, parts, tt.roots, tt.cmdline, tt.hint)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%q with roots %v: %s, want %s", tt.cmdline, tt.roots, got, tt.want)
		}
	}
}

func TestParseTable(t *testing.T) {
	got := installed.ParseTable("# comment\nUUID=a / ext4 defaults 0 1\nUUID=b /home btrfs rw,subvol=@home,noatime\n" +
		"LABEL=c /with\\040space xfs\nproc /proc proc\ntmpfs /tmp tmpfs\nUUID=d none swap sw\nserver:/x /nfs nfs\n/dev/sda1 /boot/../boot ext4\nshort line\n")
	want := []string{"UUID=a / ", "UUID=b /home @home", "LABEL=c /with space ", "/dev/sda1 /boot "}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzParseTable: whatever stands in an fstab, a place is absolute and clean.
func FuzzParseTable(f *testing.F) {
	f.Add("UUID=a / ext4 defaults 0 1\n/dev/sda2 /home\\040x btrfs subvol=@home,ro 0 0\n")
	f.Add("# x\nLABEL= /../.. xfs\n\x00 / /\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, l := range installed.ParseTable(text) {
			if _, on, ok := strings.Cut(l, " "); !ok || !strings.HasPrefix(on, "/") || strings.HasPrefix(on, "/..") && (len(on) == 3 || on[3] == '/' || on[3] == ' ') {
				t.Errorf("%q gives %q", text, l)
			}
		}
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil && os.Getenv("REQUIRE_TOOLS") != "1" && (os.Getuid() != 0 || name == "losetup" || strings.Contains(err.Error(), "not found")) {
		t.Skipf("%s: %v: %s", name, err, out)
	}
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loopDisk makes a disk of one filesystem, and lets fill put a system there.
func loopDisk(t *testing.T, size int64, mkfs []string, fill func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	run(t, mkfs[0], append(mkfs[1:], img)...)
	dev := run(t, "losetup", "-f", "--show", img)
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", dev).Run() })
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", dev, mnt)
	defer run(t, "umount", mnt)
	fill(mnt)
	return dev
}

func mkdir(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMount: a system on each kind of filesystem is found, written to, and the
// writing is there when it is mounted again.
func TestMount(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int64
		mkfs []string
		sub  string
		def  bool // the subvolume is the default one
	}{
		{"ext4", 16 << 20, []string{"mkfs.ext4", "-q"}, "", false},
		{"xfs", 320 << 20, []string{"mkfs.xfs", "-q"}, "", false},
		{"btrfs", 128 << 20, []string{"mkfs.btrfs", "-q"}, "", false},
		{"btrfs subvolume", 128 << 20, []string{"mkfs.btrfs", "-q"}, "@", false},
		{"btrfs default subvolume", 128 << 20, []string{"mkfs.btrfs", "-q"}, "@", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := loopDisk(t, tt.size, tt.mkfs, func(dir string) {
				if tt.sub != "" {
					run(t, "btrfs", "subvolume", "create", filepath.Join(dir, tt.sub))
				}
				if tt.def {
					run(t, "btrfs", "subvolume", "set-default", filepath.Join(dir, tt.sub))
				}
				mkdir(t, filepath.Join(dir, tt.sub, "etc"), filepath.Join(dir, tt.sub, "sbin"))
			})
			where := t.TempDir()
			for _, word := range []string{"", "first"} {
				s, err := installed.Mount(dev, where, nil, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				b, _ := fs.ReadFile(s.FS, "etc/word")
				if string(b) != word {
					t.Errorf("found %q, want %q", b, word)
				}
				err = s.FS.Root.WriteFile("etc/word", []byte("first"), 0o644)
				if cerr := s.Close(); err != nil || cerr != nil {
					t.Fatal(err, cerr)
				}
			}
			if list, err := os.ReadDir(where); err != nil || len(list) > 1 {
				t.Errorf("still mounted: %v, %v", list, err)
			}
		})
	}
}

// TestLacking: what the system will mount over is not written to.
func TestLacking(t *testing.T) {
	dev := loopDisk(t, 16<<20, []string{"mkfs.ext4", "-q"}, func(dir string) {
		mkdir(t, filepath.Join(dir, "etc"), filepath.Join(dir, "sbin"))
		if err := os.WriteFile(filepath.Join(dir, "etc/fstab"), []byte("UUID=elsewhere /var ext4 defaults\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	s, err := installed.Mount(dev, t.TempDir(), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Writable("/var/lib/x"); err == nil || !strings.Contains(err.Error(), "UUID=elsewhere") {
		t.Errorf("/var/lib/x: %v", err)
	}
	if err := s.Writable("/variety"); err != nil {
		t.Errorf("/variety: %v", err)
	}
}

func TestNoSystem(t *testing.T) {
	dev := loopDisk(t, 16<<20, []string{"mkfs.ext4", "-q"}, func(string) {})
	where := t.TempDir()
	if _, err := installed.Mount(dev, where, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "looks like") {
		t.Errorf("error %v", err)
	}
	// Told where it is, an empty filesystem will do.
	s, err := installed.Mount(dev, where, &personal.Root{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
