package inspect_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/inspect"
)

const script = `label: gpt
size=16MiB, type=uefi, uuid=11111111-2222-3333-4444-555555555555
size=32MiB, type=linux, uuid=11111111-2222-3333-4444-666666666666
size=4MiB, type=linux, uuid=11111111-2222-3333-4444-777777777777
`

// TestDisk: sfdisk and mkfs make the disk.
func TestDisk(t *testing.T) {
	path := file(t, 64<<20)
	pipe(t, script, "sfdisk", "-q", path)
	pipe(t, "", "mkfs.vfat", "-i", "1234abcd", "-n", "ESP", "--offset=2048", path, "16384")
	pipe(t, "", "mkfs.ext4", "-q", "-F", "-U", "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11", "-L", "root", "-E", "offset="+"17825792", path, "32M")
	got := look(t, path, 512)
	want := []api.Content{
		{Partition: 1, Size: 16 << 20, PartUUID: "11111111-2222-3333-4444-555555555555", Kind: "vfat", UUID: "1234-ABCD", Label: "ESP"},
		{Partition: 2, Size: 32 << 20, PartUUID: "11111111-2222-3333-4444-666666666666", Kind: "ext4", UUID: "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11", Label: "root"},
		{Partition: 3, Size: 4 << 20, PartUUID: "11111111-2222-3333-4444-777777777777"},
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got[1].String() != `2 ext4 "root"` || got[2].String() != "3 unknown" {
		t.Errorf("in words: %s, %s", got[1], got[2])
	}
}

func TestDiskWithoutTable(t *testing.T) {
	path := file(t, 16<<20)
	if got := look(t, path, 4096); got != nil {
		t.Errorf("on an empty disk: %v", got)
	}
	pipe(t, "", "mkswap", "-q", "-U", "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11", path)
	want := []api.Content{{Size: 16 << 20, Kind: "swap", UUID: "6f3c1a52-0b7e-4a63-9d1b-2a7f5c0e9d11"}}
	if got := look(t, path, 512); !reflect.DeepEqual(want, got) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDuplicates(t *testing.T) {
	man := &image.Manifest{Partitions: []image.Partition{
		{Number: 1, UUID: "p1", FSUUID: "1234-ABCD", FSLabel: "ESP", Content: "vfat"},
		{Number: 2, UUID: "p2", FSUUID: "pv", FSLabel: "vg0", Content: "LVM2_member"},
	}}
	disks := []api.Disk{
		{Path: "/dev/sdb", Contents: []api.Content{
			{Partition: 1, UUID: "1234-abcd", PartUUID: "P1", Label: "ESP"},    // named once
			{Partition: 2, UUID: "other", PartUUID: "P2"},                      // by the partition's own
			{Partition: 3, Kind: "LVM2_member", UUID: "another", Label: "vg0"}, // a group of the same name
			{Partition: 4, Kind: "ext4", Label: "vg0"},                         // is no group
			{Partition: 5},
		}},
		{Path: "/dev/sdc", Contents: []api.Content{{Label: "esp"}}},
	}
	var got []string
	for _, d := range inspect.Duplicates(man, disks) {
		got = append(got, d.String())
	}
	want := []string{
		"filesystem UUID 1234-abcd is on /dev/sdb partition 1",
		"partition UUID P2 is on /dev/sdb partition 2",
		"volume group vg0 is on /dev/sdb partition 3",
		"label esp is on /dev/sdc",
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if found := inspect.Duplicates(&image.Manifest{}, disks); found != nil {
		t.Errorf("an image without partitions: %v", found)
	}
}

// FuzzDisk: whatever stands on a disk, it is told or it is an error.
func FuzzDisk(f *testing.F) {
	f.Add([]byte("EFI PART"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := inspect.Disk(bytes.NewReader(b), int64(len(b)), 512)
		if err == nil && len(c) > 32 {
			t.Errorf("%d contents", len(c))
		}
	})
}

func look(t *testing.T, path string, sector int) []api.Content {
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
	c, err := inspect.Disk(f, info.Size(), sector)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func file(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func pipe(t *testing.T, in, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
