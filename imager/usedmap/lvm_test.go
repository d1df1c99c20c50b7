package usedmap_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"huck/imager/usedmap"
)

// lvmGroup is a volume group on files, made by LVM's own tools. They need root
// and loop devices, but no device-mapper: nothing is activated.
type lvmGroup struct {
	t     *testing.T
	files []string
	loops []string
	dir   string // LVM's own files
}

// newGroup makes physical volumes of the given sizes, in each the options of
// pvcreate that options says, and of them the volume group vg0.
func newGroup(t *testing.T, vgOptions string, options ...string) *lvmGroup {
	t.Helper()
	needRoot(t)
	tool(t, "lvm")
	g := &lvmGroup{t: t, dir: tempDir(t)}
	for range options {
		g.files = append(g.files, newFile(t, 96*mib))
	}
	g.attach(func() {
		for i, o := range options {
			g.lvm("pvcreate " + o + " " + g.loops[i])
		}
		if vgOptions != "none" {
			g.lvm("vgcreate " + vgOptions + " vg0 " + strings.Join(g.loops, " "))
		}
	})
	return g
}

// attach runs f while the files are loop devices, of which it leaves none.
func (g *lvmGroup) attach(f func()) {
	g.t.Helper()
	g.loops = nil
	defer func() {
		for _, l := range g.loops {
			run(g.t, "losetup", "-d", l)
		}
	}()
	for _, file := range g.files {
		g.loops = append(g.loops, strings.TrimSpace(run(g.t, "losetup", "-f", "--show", file)))
	}
	f()
}

// lvm runs a command line of lvm(8) that sees the group's devices alone.
func (g *lvmGroup) lvm(line string) string {
	g.t.Helper()
	g.t.Setenv("LVM_SYSTEM_DIR", g.dir)
	g.t.Setenv("LVM_SUPPRESS_FD_WARNINGS", "1")
	var only strings.Builder
	for _, l := range g.loops {
		fmt.Fprintf(&only, "%q,", "a|^"+l+"$|")
	}
	config := fmt.Sprintf(`devices { dir=%q scan=["/dev"] use_devicesfile=0 hints="none" filter=[%s"r|.*|"] obtain_device_list_from_udev=0 external_device_info_source="none" }`+
		` global { activation=0 use_lvmpolld=0 locking_dir=%q } backup { backup=0 archive=0 }`, g.dir, only.String(), g.dir)
	out, code := try(g.t, "lvm", append(strings.Fields(line), "--config", config)...)
	if code != 0 {
		g.t.Fatalf("lvm %s: exit code %d\n%s", line, code, out)
	}
	var kept []string
	for l := range strings.Lines(out) {
		if !strings.Contains(l, "WARNING:") {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "")
}

// create makes linear logical volumes of so many extents: "root 5 swap 3".
func (g *lvmGroup) create(list string) {
	g.t.Helper()
	f := strings.Fields(list)
	for i := 0; i < len(f); i += 2 {
		g.lvm("lvcreate -an -Zn -Wn -l " + f[i+1] + " -n " + f[i] + " vg0")
	}
}

// lvmSegment is what pvs(8) says of a stretch of extents; free ones have no
// volume.
type lvmSegment struct {
	volume              string
	lvStart, start, len int64 // bytes; start in the PV
}

// segments asks pvs(8) where on PV number i the volumes lie.
func (g *lvmGroup) segments(i int) []lvmSegment {
	g.t.Helper()
	var all []lvmSegment
	out := g.lvm("pvs --segments --noheadings --nosuffix --units b --separator : -o vg_extent_size,pe_start,seg_start_pe,pvseg_start,pvseg_size,lv_name " + g.loops[i])
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 6 {
			g.t.Fatalf("pvs: %s", out)
		}
		extent := number(g.t, f[0])
		s := lvmSegment{volume: strings.Trim(f[5], "[]"), start: number(g.t, f[1]) + number(g.t, f[3])*extent, len: number(g.t, f[4]) * extent}
		if s.volume != "" {
			s.lvStart = number(g.t, f[2]) * extent
		}
		all = append(all, s)
	}
	return all
}

// fill puts content into a linear volume: pieces[i] of the segments.
func (g *lvmGroup) fill(file string, segments []lvmSegment, volume, content string) {
	g.t.Helper()
	b, err := os.ReadFile(content)
	if err != nil {
		g.t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	for _, s := range segments {
		if s.volume != volume {
			continue
		}
		if _, err := f.WriteAt(b[s.lvStart:s.lvStart+s.len], s.start); err != nil {
			g.t.Fatal(err)
		}
	}
}

// extract copies a linear volume to a file of its own.
func extractVolume(t *testing.T, file string, segments []lvmSegment, volume string) string {
	t.Helper()
	disk, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, s := range segments {
		if s.volume == volume {
			b = append(b, make([]byte, max(0, s.lvStart+s.len-int64(len(b))))...)
			copy(b[s.lvStart:], disk[s.start:s.start+s.len])
		}
	}
	path := newFile(t, 0)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantBytes compares a set, byte by byte in 512s, with what should be used.
func wantBytes(t *testing.T, used *usedmap.Set, size int64, want []bool) {
	t.Helper()
	got := make([]bool, size/512)
	for off, n := range used.All() {
		for i := off / 512; i < (off+n+511)/512; i++ {
			got[i] = true
		}
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("sector %d used: %v, want %v", i, got[i], want[i])
		}
	}
}

func mark(want []bool, off, n int64) {
	for i := off / 512; i < (off+n+511)/512; i++ {
		want[i] = true
	}
}

// TestLVM has one physical volume with all that is understood: filesystems in
// linear volumes, one of them in two pieces, swap, and one that is unknown.
func TestLVM(t *testing.T) {
	for name, c := range map[string]struct{ vg, pv string }{
		"default":               {"", ""},
		"two metadata areas":    {"", "--metadatacopies 2"},
		"small extents":         {"-s 64k", ""},
		"odd extents":           {"-s 384k", "--dataalignment 512k"},
		"boot loader area":      {"-s 1m", "--bootloaderareasize 2m"},
		"label in sector 3":     {"-s 1m", "--labelsector 3 --metadatasize 8m"},
		"not aligned, in place": {"-s 1m", "--dataalignmentoffset 7s"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, c.vg, c.pv)
			var segs []lvmSegment
			g.attach(func() {
				for _, lv := range []string{"root -L 24m", "swap -L 4m", "gone -L 4m", "esp -L 16m", "data -L 4m"} {
					g.lvm("lvcreate -an -Zn -Wn -n " + lv + " vg0")
				}
				g.lvm("lvextend -L +12m vg0/root")
				g.lvm("lvremove -y vg0/gone")
				segs = g.segments(0)
			})
			size := map[string]int64{}
			for _, s := range segs {
				size[s.volume] = max(size[s.volume], s.lvStart+s.len)
			}
			file := g.files[0]
			root, swap, esp, data := newFile(t, size["root"]), newFile(t, size["swap"]), newFile(t, size["esp"]), newFile(t, size["data"])
			files := tree(t, 6*mib)
			run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-d", files, root)
			run(t, "mkswap", swap)
			run(t, "mkfs.vfat", esp)
			if err := os.WriteFile(data, bytes.Repeat([]byte("data"), int(size["data"]/4)), 0o600); err != nil {
				t.Fatal(err)
			}
			for lv, content := range map[string]string{"root": root, "swap": swap, "esp": esp, "data": data} {
				g.fill(file, segs, lv, content)
			}
			res, err := probe(t, file)
			if err != nil || res.Content != "LVM2_member" || res.Used == nil {
				t.Fatalf("%+v, error %v", res, err)
			}
			if len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "logical volume vg0/data (unknown) taken whole") {
				t.Errorf("warnings %q", res.Warnings)
			}
			g.compare(res.Used, segs, map[string]*usedmap.Set{"root": mustProbe(t, root, "ext4"), "swap": mustProbe(t, swap, "swap"), "esp": mustProbe(t, esp, "vfat")})
			g.judge(res, segs, files)
		})
	}
}

// compare wants used, apart from what stands before and behind the extents, to
// be what pvs and the filesystems alone say.
func (g *lvmGroup) compare(used *usedmap.Set, segs []lvmSegment, inside map[string]*usedmap.Set) {
	g.t.Helper()
	st, err := os.Stat(g.files[0])
	if err != nil {
		g.t.Fatal(err)
	}
	want := make([]bool, st.Size()/512)
	first, last := segs[0].start, segs[len(segs)-1].start+segs[len(segs)-1].len
	mark(want, 0, first)
	for off, n := range used.All() {
		if off+n > last {
			mark(want, max(off, last), off+n-max(off, last))
		}
	}
	for _, s := range segs {
		set := inside[s.volume]
		switch {
		case s.volume == "":
		case set == nil:
			mark(want, s.start, s.len)
		default:
			for off, n := range set.All() {
				lo, hi := max(off, s.lvStart), min(off+n, s.lvStart+s.len)
				if lo < hi {
					mark(want, s.start+lo-s.lvStart, hi-lo)
				}
			}
		}
	}
	wantBytes(g.t, used, st.Size(), want)
}

// judge replaces all that is not used by garbage and lets LVM and the
// filesystems' checkers look at it.
func (g *lvmGroup) judge(res usedmap.Result, segs []lvmSegment, files string) {
	t := g.t
	t.Helper()
	file := g.files[0]
	if out := run(t, "blkid", "-p", "-o", "value", "-s", "UUID", file); strings.TrimSpace(out) != res.UUID {
		t.Errorf("UUID %s, blkid says %s", res.UUID, out)
	}
	g.files[0] = garbageCopy(t, file, res.Used)
	g.attach(func() {
		if again := g.segments(0); !slices.Equal(again, segs) {
			t.Errorf("segments\n%+v\nof the copy\n%+v", segs, again)
		}
		g.lvm("vgck vg0")
	})
	copied := extractVolume(t, g.files[0], segs, "root")
	run(t, "e2fsck", "-fn", copied)
	out := tempDir(t)
	run(t, "debugfs", "-R", "rdump / "+out, copied)
	if err := os.Remove(filepath.Join(out, "lost+found")); err != nil {
		t.Error(err)
	}
	sameTree(t, out, files)
	run(t, "fsck.vfat", "-n", extractVolume(t, g.files[0], segs, "esp"))
	if out := run(t, "blkid", "-p", "-o", "value", "-s", "TYPE", extractVolume(t, g.files[0], segs, "swap")); out != "swap\n" {
		t.Errorf("swap: %s", out)
	}
	run(t, "cmp", extractVolume(t, file, segs, "data"), extractVolume(t, g.files[0], segs, "data"))
}

// TestLVMManyUpdates writes so many versions of the metadata that their ring
// comes round.
func TestLVMManyUpdates(t *testing.T) {
	g := newGroup(t, "-s 64k", "--metadatasize 16k --metadatacopies 2 --dataalignment 64k")
	around := false
	for i := range 24 {
		var segs []lvmSegment
		g.attach(func() {
			g.lvm(fmt.Sprintf("lvcreate -an -Zn -Wn -l 1 -n lv%d vg0", i))
			if i > 12 {
				g.lvm(fmt.Sprintf("lvremove -y vg0/lv%d", i-12))
			}
			segs = g.segments(0)
		})
		// The area's size, and offset and length of the text, which goes on at
		// the area's start where it does not end before its end.
		patch(t, g.files[0], 4096+32, func(head []byte) {
			le := binary.LittleEndian
			around = around || le.Uint64(head[8:])+le.Uint64(head[16:]) > le.Uint64(head)
		})
		res, err := probe(t, g.files[0])
		if err != nil || res.Used == nil {
			t.Fatalf("after %d updates: %+v, error %v", i, res, err)
		}
		g.compare(res.Used, segs, nil)
	}
	if !around {
		t.Error("the ring never came round: the test is too short")
	}
}

// TestLVMSeveralVolumes has a group on two physical volumes, with one linear
// volume on each, one across both and a striped one.
func TestLVMSeveralVolumes(t *testing.T) {
	g := newGroup(t, "-s 1m", "", "")
	var segs [2][]lvmSegment
	g.attach(func() {
		g.lvm("lvcreate -an -Zn -Wn -n one -L 20m vg0 " + g.loops[0])
		g.lvm("lvcreate -an -Zn -Wn -n two -L 20m vg0 " + g.loops[1])
		g.lvm("lvcreate -an -Zn -Wn --type striped -i 2 -n stripes -L 8m vg0")
		g.lvm("lvcreate -an -Zn -Wn -n across -L 80m vg0")
		segs[0], segs[1] = g.segments(0), g.segments(1)
	})
	for i, name := range []string{"one", "two"} {
		fs := newFile(t, 20*mib)
		run(t, "mke2fs", "-q", "-F", "-t", "ext4", fs)
		g.fill(g.files[i], segs[i], name, fs)
		res, err := probe(t, g.files[i])
		if err != nil || res.Used == nil {
			t.Fatalf("%+v, error %v", res, err)
		}
		all := strings.Join(res.Warnings, "\n")
		if len(res.Warnings) != 2 || !strings.Contains(all, "vg0/stripes taken whole: it is striped") || !strings.Contains(all, "vg0/across taken whole: not all of it is on this") {
			t.Errorf("warnings %q", res.Warnings)
		}
		g.compare(res.Used, segs[i], map[string]*usedmap.Set{name: mustProbe(t, fs, "ext4")})
	}
}

// TestLVMLayers has volumes that are made of others, or that others depend on:
// whatever stands in the latter's free blocks may be needed.
func TestLVMLayers(t *testing.T) {
	g := newGroup(t, "-s 1m", "")
	ids := 0
	lv := func(name, status, segment string) string {
		ids++
		id := fmt.Sprintf("AbCdEf-0000-0000-0000-0000-0000-%06d", ids)
		return fmt.Sprintf("%s {\nid = %q\nstatus = [%s]\nflags = []\nsegment_count = 1\nsegment1 {\nstart_extent = 0\n%s\n}\n}\n", name, id, status, segment)
	}
	const shown, hidden = `"READ", "WRITE", "VISIBLE"`, `"READ", "WRITE"`
	linear := func(first, count int) string {
		return fmt.Sprintf("extent_count = %d\ntype = \"striped\"\nstripe_count = 1\nstripes = [ \"pv0\", %d ]", count, first)
	}
	volumes := lv("plain", shown, linear(0, 4)) +
		lv("origin", shown, linear(4, 4)) + lv("cow", shown, linear(8, 2)) +
		lv("snapshot0", hidden, "extent_count = 4\ntype = \"snapshot\"\nchunk_size = 8\norigin = \"origin\"\ncow_store = \"cow\"") +
		lv("pool", shown, "extent_count = 4\ntype = \"thin-pool\"\nmetadata = \"pool_tmeta\"\npool = \"pool_tdata\"\ntransaction_id = 1\nchunk_size = 128\ndiscards = \"passdown\"\nzero_new_blocks = 1") +
		lv("pool_tmeta", hidden, linear(12, 2)) + lv("pool_tdata", hidden, linear(16, 4)) +
		lv("thin", shown, "extent_count = 8\ntype = \"thin\"\nthin_pool = \"pool\"\ntransaction_id = 0\ndevice_id = 1") +
		lv("lvol0_pmspare", hidden, linear(14, 2)) +
		lv("both", shown, "extent_count = 2\ntype = \"raid1\"\ndevice_count = 2\nregion_size = 1024\nraids = [ \"both_rmeta_0\", \"both_rimage_0\", \"both_rmeta_1\", \"both_rimage_1\" ]") +
		lv("both_rmeta_0", hidden, linear(20, 1)) + lv("both_rimage_0", hidden, linear(22, 2)) +
		lv("both_rmeta_1", hidden, linear(21, 1)) + lv("both_rimage_1", hidden, linear(24, 2)) +
		lv("moved", shown, "extent_count = 3\ntype = \"mirror\"\nmirror_count = 2\nregion_size = 1024\nmirrors = [ \"pv0\", 30, \"pv0\", 40 ]")
	var segs []lvmSegment
	g.attach(func() {
		file := filepath.Join(tempDir(t), "text")
		g.lvm("vgcfgbackup -f " + file + " vg0")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.LastIndexByte(text, '}')
		text = slices.Concat(text[:end], []byte("logical_volumes {\n"+volumes+"}\n}\n"))
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		g.lvm("vgcfgrestore --force -y -f " + file + " vg0") // LVM itself checks and writes it
		segs = g.segments(0)
	})
	fs := newFile(t, 4*mib)
	run(t, "mke2fs", "-q", "-F", "-t", "ext2", fs)
	for _, v := range []string{"plain", "origin", "pool_tdata"} {
		g.fill(g.files[0], segs, v, fs)
	}
	res, err := probe(t, g.files[0])
	if err != nil || res.Used == nil {
		t.Fatalf("%+v, error %v", res, err)
	}
	g.compare(res.Used, segs, map[string]*usedmap.Set{"plain": mustProbe(t, fs, "ext2")})
	all := strings.Join(res.Warnings, "\n")
	for _, w := range []string{"vg0/origin taken whole: another volume", "vg0/cow taken whole: another", "vg0/lvol0_pmspare taken whole: it is hidden",
		"vg0/both_rimage_1 taken whole: another", "vg0/moved taken whole: it is of type mirror"} {
		if !strings.Contains(all, w) {
			t.Errorf("%q is not among the warnings\n%s", w, all)
		}
	}
}

// TestLVMEmpty has a physical volume without group, a group without volumes and
// physical volumes without metadata.
func TestLVMEmpty(t *testing.T) {
	for name, c := range map[string]struct {
		vg    string
		pv    []string
		used  int64  // of the first one
		whole string // why it is taken whole
	}{
		"no group":          {vg: "none", pv: []string{""}, used: mib},
		"no volumes":        {pv: []string{""}, used: mib},
		"no group, no area": {vg: "none", pv: []string{"--metadatacopies 0"}, whole: "on other volumes"},
		"no area":           {pv: []string{"--metadatacopies 0", ""}, whole: "on other volumes"},
		"ignored area":      {pv: []string{"--metadataignore y", ""}, whole: "on other volumes"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, c.vg, c.pv...)
			res, err := probe(t, g.files[0])
			if err != nil || res.Content != "LVM2_member" || (res.Used == nil) != (c.whole != "") || !strings.Contains(res.Whole, c.whole) {
				t.Fatalf("%+v, error %v", res, err)
			}
			if c.whole == "" && res.Used.Bytes() != c.used {
				t.Errorf("%d bytes used, want %d", res.Used.Bytes(), c.used)
			}
		})
	}
}

// TestLVMNotAtRest has filesystems in volumes that a capture refuses elsewhere
// too, and a volume that cannot be read.
func TestLVMNotAtRest(t *testing.T) {
	g := newGroup(t, "-s 1m", "")
	var segs []lvmSegment
	g.attach(func() {
		g.create("swap 4 root 20")
		segs = g.segments(0)
	})
	fs := newFile(t, 20*mib)
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", fs)
	run(t, "debugfs", "-w", "-R", "set_super_value state 0", fs)
	g.fill(g.files[0], segs, "root", fs)
	res, err := probe(t, g.files[0])
	var refused *usedmap.Refused
	if !errors.As(err, &refused) || refused.Content != "LVM2_member" || !strings.Contains(refused.Cause, "logical volume vg0/root holds ext4: ") || res.Used != nil {
		t.Errorf("%+v, error %v", res, err)
	}
	f, err := os.Open(g.files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err = usedmap.Probe(flaky{f, segs[0].start + 5}, 96*mib)
	if !errors.Is(err, os.ErrDeadlineExceeded) || res.Used != nil || !strings.Contains(res.Whole, "logical volume vg0/swap: ") {
		t.Errorf("%+v, error %v", res, err)
	}
}

// TestLVMInside has a physical volume in a logical one.
func TestLVMInside(t *testing.T) {
	inner, outer := newGroup(t, "-s 1m", ""), newGroup(t, "-s 1m", "")
	var segs []lvmSegment
	if err := os.Truncate(outer.files[0], 120*mib); err != nil {
		t.Fatal(err)
	}
	outer.attach(func() {
		outer.lvm("pvresize " + outer.loops[0])
		outer.create("pv 96")
		segs = outer.segments(0)
	})
	outer.fill(outer.files[0], segs, "pv", inner.files[0])
	res, err := probe(t, outer.files[0])
	if err != nil || res.Used == nil || !strings.Contains(strings.Join(res.Warnings, "\n"), "vg0/pv (LVM2_member) taken whole: it is a physical volume inside") {
		t.Fatalf("%+v, error %v", res, err)
	}
	outer.compare(res.Used, segs, nil)
}
