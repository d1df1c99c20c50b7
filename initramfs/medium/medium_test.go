package medium_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"huck/imager/api"
	"huck/initramfs/medium"
)

const name = "HUCK_0123456789ABCDEF"

// volume is the beginning of an ISO 9660 filesystem with this name.
func volume(name string) []byte {
	b := make([]byte, 17*2048)
	copy(b[16*2048:], "\x01CD001\x01")
	copy(b[16*2048+40:], name+strings.Repeat(" ", 32-len(name)))
	return b
}

// machine has the devices sda (with the partition sda1) and sr0; the content
// of each is given, nil for none.
func machine(t *testing.T, sda, sda1, sr0 []byte) (block, dev string) {
	t.Helper()
	block, dev = t.TempDir(), t.TempDir()
	for name, content := range map[string][]byte{"sda": sda, "sda1": sda1, "sr0": sr0} {
		if err := os.Mkdir(filepath.Join(block, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dev, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(block, "sda1", "partition"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return block, dev
}

func TestFind(t *testing.T) {
	ours, other := volume(name), volume("DEBIAN")
	notISO := volume(name)
	notISO[16*2048] = 2
	for _, tt := range []struct {
		name           string
		sda, sda1, sr0 []byte
		want           string
	}{
		{"a stick", ours, nil, nil, "sda"},
		{"a CD beside a disk", make([]byte, 1<<16), nil, ours, "sr0"},
		{"beside another CD", ours, nil, other, "sda"},
		{"a partition is none", other, ours, nil, ""},
		{"a short disk", ours[:16*2048+50], nil, nil, ""},
		{"another kind of descriptor", notISO, nil, nil, ""},
		{"nothing can be read", nil, nil, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			block, dev := machine(t, tt.sda, tt.sda1, tt.sr0)
			got, err := medium.Find(block, dev, name)
			if tt.want == "" {
				if !errors.Is(err, medium.ErrNotFound) {
					t.Errorf("found %q, %v", got, err)
				}
				return
			}
			if err != nil || got != filepath.Join(dev, tt.want) {
				t.Errorf("found %q, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// Neither the medium nor a copy of it is ever written to.
func TestMark(t *testing.T) {
	_, dev := machine(t, volume(name), make([]byte, 1<<16), volume(name))
	disks := []api.Disk{
		{Path: filepath.Join(dev, "sda"), Size: 1}, {Path: filepath.Join(dev, "sda1"), Size: 1},
		{Path: filepath.Join(dev, "sr0"), Size: 1}, {Path: filepath.Join(dev, "gone"), Size: 1},
	}
	medium.Mark(disks, name)
	for i, want := range []bool{true, false, true, false} {
		if disks[i].Boot != want {
			t.Errorf("%s: boot %v", disks[i].Path, disks[i].Boot)
		}
	}
	rule, err := api.ParseRule("only")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := rule.Select(disks[:3]); err != nil || d.Path != disks[1].Path {
		t.Errorf("chosen %+v, %v", d, err)
	}
	medium.Mark(disks[1:2], "")
	if disks[1].Boot {
		t.Error("a disk without a name is the medium without a name")
	}
}

func TestAssignment(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"good", `{"action":"install","ref":"debian:1","disk":"only","then":"reboot","serial":0}`, ""},
		{"no JSON", `{`, "unexpected EOF"},
		{"from the future", `{"action":"install","ref":"debian:1","disk":"only","then":"reboot","unless":"sunday"}`, "unless"},
		{"no installation", `{"action":"boot","ref":"debian:1","disk":"only","then":"reboot"}`, "no installation"},
		{"no image", `{"action":"install","disk":"only","then":"reboot"}`, "no installation"},
		{"no disk", `{"action":"install","ref":"debian:1","then":"reboot"}`, "disk rule"},
		{"personalised", `{"action":"install","ref":"debian:1","disk":"only","then":"reboot","personalise":true}`, "takes a server"},
		{"no end", `{"action":"install","ref":"debian:1","disk":"only","then":"sleep"}`, "sleep"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := medium.Assignment(fstest.MapFS{"huck/assignment.json": {Data: []byte(tt.text)}})
			switch {
			case tt.want == "" && (err != nil || a == nil || a.Ref != "debian:1"):
				t.Errorf("got %+v, %v", a, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if a, err := medium.Assignment(fstest.MapFS{}); a != nil || err != nil {
		t.Errorf("a medium without: %+v, %v", a, err)
	}
}

func FuzzName(f *testing.F) {
	f.Add(volume(name)[16*2048:])
	f.Fuzz(func(t *testing.T, sector []byte) {
		got := medium.Name(strings.NewReader(strings.Repeat("\x00", 16*2048) + string(sector)))
		if len(got) > 32 {
			t.Errorf("%d bytes of name", len(got))
		}
	})
}
