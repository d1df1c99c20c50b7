package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/disk/disktest"
)

// partitioned makes a disk with a GPT whose partition 3 is the ext4 of
// ext4Disk.
func partitioned(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(ext4Disk(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, append(append(make([]byte, 1<<20), b...), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "sgdisk", "-n", "3:2048:100351", disk)
	return disk
}

func TestInstallPartition(t *testing.T) {
	disk, st, target := partitioned(t), filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "target")
	want(t, 0, nil, "capture", disk, "--store", st, "--name", "golden")
	var whole, done api.Result
	want(t, 0, &whole, "--json", "install", "golden", "--store", st, "--to", "discard")
	for range 2 {
		want(t, 0, &done, "--json", "install", "golden", "--store", st, "--to", target, "--partition", "3", "--verify")
		if fi, err := os.Stat(target); err != nil || fi.Size() != 48<<20 {
			t.Errorf("created %v, %v; want the partition's 48 MiB", fi, err)
		}
		tool(t, "e2fsck", "-fn", target)
		if done.ImageBytes >= whole.ImageBytes || done.EncodedBytes >= whole.EncodedBytes || done.Grown != nil {
			t.Errorf("installed %+v of %+v", done, whole)
		}
	}
	if done.WrittenBytes != 0 {
		t.Errorf("second time %+v", done)
	}
	for says, args := range map[string][]string{
		"no partition 7: it has 3": {"--to", target, "--partition", "7"},
		"has a partition table":    {"--to", disk, "--partition", "3"},
	} {
		if out := want(t, exitRefused, nil, append([]string{"install", "golden", "--store", st}, args...)...); !strings.Contains(out, says) {
			t.Errorf("%q says %s, want %q", args, out, says)
		}
	}
	want(t, 0, nil, "install", "golden", "--store", st, "--to", disk, "--partition", "3", "--force")
	tool(t, "e2fsck", "-fn", disk)
	want(t, 0, nil, "install", "golden", "--store", st, "--to", "discard", "--partition", "3")
}

func TestInstallGrow(t *testing.T) {
	disktest.NeedRoot(t)
	st, target := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "target")
	want(t, 0, nil, "capture", partitioned(t), "--store", st, "--name", "golden")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(target, 100<<20); err != nil {
		t.Fatal(err)
	}
	var done api.Result
	want(t, 0, &done, "--json", "install", "golden", "--store", st, "--to", target, "--grow")
	if g := done.Grown; g == nil || *g != (api.Grown{Partition: 3, Content: "ext4", From: 48 << 20, To: 98 << 20, Filesystem: 98 << 20}) {
		t.Errorf("grown %+v", g)
	}
	if out := want(t, 0, nil, "install", "golden", "--store", st, "--to", target, "--grow"); !strings.Contains(out, "partition 3 grown from 48.0 MiB to 98.0 MiB") {
		t.Errorf("said: %s", out)
	}
	tool(t, "sgdisk", "-v", target)
	tool(t, "e2fsck", "-fn", target+"?offset=1048576")
	if out := want(t, 0, nil, "install", "golden", "--store", st, "--to", filepath.Join(t.TempDir(), "same"), "--grow"); !strings.Contains(out, "partition 3 not grown: there is no room behind it") {
		t.Errorf("said: %s", out)
	}
}

// TestNoRawDisk: a virtual machine's disk in a format of its own is neither taken
// for the disk that it holds nor overwritten as one.
func TestNoRawDisk(t *testing.T) {
	dir := t.TempDir()
	raw, qcow, st := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2"), filepath.Join(dir, "store")
	content := make([]byte, 2<<20)
	copy(content, "QFI\xfb\x00\x00\x00\x03")
	for file, b := range map[string][]byte{raw: make([]byte, 1<<20), qcow: content} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want(t, exitRefused, nil, "capture", qcow, "--store", st, "--name", "wrong")
	if _, err := os.Stat(st); err == nil {
		t.Error("a store was made for nothing")
	}
	want(t, 0, nil, "capture", qcow, "--store", st, "--name", "bytes", "--force")
	want(t, 0, nil, "capture", raw, "--store", st, "--name", "right")
	want(t, exitRefused, nil, "install", "right", "--store", st, "--to", qcow)
	want(t, exitRefused, nil, "verify", "right", "--store", st, "--against", qcow)
	want(t, exitRefused, nil, "receive", "http://127.0.0.1:9/right", "--to", qcow)
	if b, err := os.ReadFile(qcow); err != nil || !bytes.Equal(b, content) {
		t.Errorf("the file has changed (%v)", err)
	}
	want(t, 0, nil, "install", "right", "--store", st, "--to", raw)
}
