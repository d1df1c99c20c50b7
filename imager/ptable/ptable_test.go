package ptable_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"huck/imager/image"
	"huck/imager/ptable"
)

// gptDisk makes a disk with a GPT of n entries and partitions 1, 2, … of the
// given first and last sectors.
func gptDisk(sectors int64, sector, n int, parts ...[2]uint64) []byte {
	b := make([]byte, sectors*int64(sector))
	copy(b[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	le := binary.LittleEndian
	le.PutUint32(b[458:], uint32(sectors-1))
	b[510], b[511] = 0x55, 0xaa
	entries := make([]byte, n*128)
	for i, p := range parts {
		e := entries[i*128:]
		e[0], e[16] = 0xaf, byte(i+1)
		le.PutUint64(e[32:], p[0])
		le.PutUint64(e[40:], p[1])
	}
	es := uint64(len(entries)+sector-1) / uint64(sector)
	last := uint64(sectors - 1)
	for _, at := range [][3]uint64{{1, last, 2}, {last, 1, last - es}} {
		h := b[at[0]*uint64(sector):]
		copy(h, "EFI PART\x00\x00\x01\x00\x5c")
		le.PutUint64(h[24:], at[0])
		le.PutUint64(h[32:], at[1])
		le.PutUint64(h[40:], 2+es)
		le.PutUint64(h[48:], last-es-1)
		h[56] = 0x77
		le.PutUint64(h[72:], at[2])
		le.PutUint32(h[80:], uint32(n))
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		seal(h)
		copy(b[at[2]*uint64(sector):], entries)
	}
	return b
}

func seal(h []byte) {
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
}

func read(b []byte, sector int) (*ptable.Table, error) {
	return ptable.Read(bytes.NewReader(b), int64(len(b)), sector)
}

// TestFitRoundTrip fits random tables to random disks and back again.
func TestFitRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		sector := []int{512, 4096}[rng.IntN(2)]
		n := []int{4, 128, 200}[rng.IntN(3)]
		sectors := 200 + rng.Int64N(200)
		disk := gptDisk(sectors, sector, n, [2]uint64{70, 80 + rng.Uint64N(20)})
		h := disk[sector : 2*sector]
		for range rng.IntN(20) { // bytes no one speaks of, and odd protective sizes
			h[92+rng.IntN(sector-92)] = byte(rng.Uint32())
		}
		if rng.IntN(3) == 0 {
			binary.LittleEndian.PutUint64(h[48:], 110) // a tool that is content with less
			seal(h)
		}
		size := (200 + rng.Int64N(200)) * int64(sector)
		switch rng.IntN(5) {
		case 0:
			size = sectors * int64(sector)
		case 1:
			binary.LittleEndian.PutUint32(disk[458:], rng.Uint32())
		case 2:
			binary.LittleEndian.PutUint32(disk[458:], 0xffffffff)
		case 3:
			binary.LittleEndian.PutUint32(disk[458:], uint32(size/int64(sector)-1))
		}
		table, err := read(disk, sector)
		if err != nil {
			t.Fatal(i, err)
		}
		f, err := ptable.Fit(disk, sector, size)
		if err != nil {
			t.Fatal(i, err)
		}
		head := disk[:2*sector]
		if size == int64(len(disk)) && !bytes.Equal(f.Head, head) {
			t.Fatal(i, "same size, other head")
		}
		back, err := ptable.Unfit(f.Head, sector, size, *table.GPT)
		if err != nil || !bytes.Equal(back, head) {
			t.Fatalf("%d: unfitted head differs from the image's: %v", i, err)
		}
		if size != int64(len(disk)) {
			if _, err := ptable.Unfit(head, sector, size, *table.GPT); !errors.Is(err, ptable.ErrGPT) {
				t.Fatalf("%d: a head not fitted to this disk: %v", i, err)
			}
		}
		last := f.Backup[len(f.Backup)-sector:]
		if _, err := ptable.ParseHeader(last, uint64(size/int64(sector)-1)); err != nil {
			t.Fatal(i, err)
		}
	}
}

func TestFitRefuses(t *testing.T) {
	disk := gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{100, 500})
	for name, c := range map[string]struct {
		size int64
		edit func(b []byte)
		cut  int
		want string
	}{
		"partition past the end": {size: 534*512 - 1, want: "partition 2 ends at sector 500"},
		"no room at all":         {size: 60 * 512, want: "at least"},
		"negative":               {size: -1, want: "outside"},
		"enormous":               {size: 1 << 60, want: "outside"},
		"header CRC":             {size: 1 << 30, edit: func(b []byte) { b[512+40]++ }, want: "CRC"},
		"entries CRC":            {size: 1 << 30, edit: func(b []byte) { b[1024+40]++ }, want: "entries in sector 2: CRC"},
		"head too short":         {size: 1 << 30, cut: 4096, want: "its entries end at 17408"},
		"head of one sector":     {size: 1 << 30, cut: 512, want: "head of 512 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(disk)
			if c.edit != nil {
				c.edit(b)
			}
			if c.cut != 0 {
				b = b[:c.cut]
			}
			if _, err := ptable.Fit(b, 512, c.size); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if _, err := ptable.Fit(disk, 512, 534*512+511); err != nil { // 500 + 33 of the backup, counted from 0
		t.Errorf("the smallest disk that will do: %v", err)
	}
}

func TestHeaderRefuses(t *testing.T) {
	le := binary.LittleEndian
	for name, edit := range map[string]func(h []byte){
		"magic":                func(h []byte) { h[0] = 'e' },
		"short header":         func(h []byte) { le.PutUint32(h[12:], 91) },
		"long header":          func(h []byte) { le.PutUint32(h[12:], 513) },
		"other place":          func(h []byte) { le.PutUint64(h[24:], 2) },
		"no entries":           func(h []byte) { le.PutUint32(h[80:], 0) },
		"too many entries":     func(h []byte) { le.PutUint32(h[80:], 16385) },
		"small entries":        func(h []byte) { le.PutUint32(h[84:], 64) },
		"large entries":        func(h []byte) { le.PutUint32(h[84:], 8192) },
		"odd entries":          func(h []byte) { le.PutUint32(h[84:], 200) },
		"entries at 1":         func(h []byte) { le.PutUint64(h[72:], 1) },
		"entries in usable":    func(h []byte) { le.PutUint64(h[72:], 3) },
		"entries overflow":     func(h []byte) { le.PutUint64(h[72:], ^uint64(0)) },
		"usable reversed":      func(h []byte) { le.PutUint64(h[40:], 980) },
		"usable to alternate":  func(h []byte) { le.PutUint64(h[48:], 999) },
		"alternate overflow":   func(h []byte) { le.PutUint64(h[32:], 1<<63) },
		"alternate before all": func(h []byte) { le.PutUint64(h[32:], 0) },
	} {
		t.Run(name, func(t *testing.T) {
			h := gptDisk(1000, 512, 128)[512:1024]
			edit(h)
			seal(h)
			if _, err := ptable.ParseHeader(h, 1); !errors.Is(err, ptable.ErrGPT) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestOddDisks reads disks that something happened to.
func TestOddDisks(t *testing.T) {
	le := binary.LittleEndian
	gpt := func() []byte { return gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{100, 500}) }
	for name, c := range map[string]struct {
		disk func() []byte
		kind string
		n    int    // partitions
		warn string // in a warning
		err  string
	}{
		"blank": {disk: func() []byte { return make([]byte, 4096) }, kind: "none"},
		"empty": {disk: func() []byte { return nil }, kind: "none"},
		"primary header damaged": {disk: func() []byte { b := gpt(); b[600] = 1; return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"primary entries damaged": {disk: func() []byte { b := gpt(); b[1024] = 1; return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"grown, primary entries damaged": {disk: func() []byte { b := append(gpt(), make([]byte, 9999)...); b[1024] = 1; return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"grown, primary header torn": {disk: func() []byte { b := append(gpt(), make([]byte, 9999)...); b[600] = 1; return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"grown, primary header gone": {disk: func() []byte { b := append(gpt(), make([]byte, 9999)...); clear(b[512:1024]); return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"primary gone, partition over it": {disk: func() []byte { b := gptDisk(1000, 512, 128, [2]uint64{33, 99}); clear(b[512:1024]); return b },
			err: "partition 1 at byte 16896+34304 overlaps the primary GPT, which must be made anew"},
		"primary damaged, backup of another": {disk: func() []byte {
			b := gpt()
			b[1024] = 1
			h := b[len(b)-512:]
			h[56]++
			seal(h)
			return b
		}, err: "neither"},
		"cut disk, backup of an earlier table": {disk: func() []byte {
			b := gptDisk(2000, 512, 128, [2]uint64{40, 1900})[:1000*512]
			copy(b[900*512:], gpt()[900*512:])
			return b
		}, err: "for a disk of 2000 sectors"},
		"cut disk, backup made anew": {disk: func() []byte {
			b := gptDisk(2000, 512, 128, [2]uint64{40, 99}, [2]uint64{100, 500})[:1000*512]
			copy(b[900*512:], gpt()[900*512:])
			return b
		}, kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"no room for the backup": {disk: func() []byte {
			b := gpt()
			le.PutUint64(b[512+48:], 990)
			seal(b[512:])
			b[len(b)-512] = 0
			return b
		}, err: "lets partitions reach sector 990"},
		"no room for the backup, which is sound": {disk: func() []byte { b := gpt(); le.PutUint64(b[512+48:], 990); seal(b[512:]); return b },
			kind: "gpt", n: 2, warn: "the primary GPT is damaged"},
		"gpt behind the entries of the backup": {disk: func() []byte {
			b := gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{970, 980})
			h := b[len(b)-512:]
			le.PutUint64(h[72:], 930)
			le.PutUint64(h[48:], 929)
			seal(h)
			copy(b[930*512:], b[1024:34*512])
			return b
		}, err: "overlaps the backup GPT"},
		"backup damaged": {disk: func() []byte { b := gpt(); b[len(b)-512] = 1; return b },
			kind: "gpt", n: 2, warn: "the backup GPT is damaged"},
		"both damaged":         {disk: func() []byte { b := gpt(); b[len(b)-512], b[512] = 1, 1; return b }, err: "neither"},
		"grown disk":           {disk: func() []byte { return append(gpt(), make([]byte, 5120)...) }, kind: "gpt", n: 2, warn: "not in the disk's last"},
		"cut disk":             {disk: func() []byte { return gpt()[:900*512] }, err: "for a disk of 1000 sectors"},
		"no protective MBR":    {disk: func() []byte { b := gpt(); clear(b[:512]); return b }, kind: "none", warn: "without a protective MBR"},
		"MBR over a stale GPT": {disk: func() []byte { b := gpt(); b[450] = 0x83; return b }, kind: "mbr", n: 1},
		"hybrid": {disk: func() []byte {
			b := gpt()
			copy(b[462:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 40, 0, 0, 0, 60, 0, 0, 0})
			return b
		}, kind: "gpt", n: 2, warn: "hybrid MBR"},
		"gpt overlap":          {disk: func() []byte { return gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{99, 500}) }, kind: "gpt", n: 2, warn: "partitions 1 and 2 overlap"},
		"gpt past the end":     {disk: func() []byte { return gptDisk(1000, 512, 128, [2]uint64{2000, 2001}) }, kind: "gpt", n: 0, warn: "past the disk's end"},
		"gpt nonsense":         {disk: func() []byte { return gptDisk(1000, 512, 128, [2]uint64{90, 80}, [2]uint64{1, 1 << 63}) }, kind: "gpt", n: 0, warn: "makes no sense"},
		"gpt over its backup":  {disk: func() []byte { return gptDisk(1000, 512, 128, [2]uint64{90, 999}) }, err: "overlaps the backup GPT"},
		"gpt over its entries": {disk: func() []byte { return gptDisk(1000, 512, 128, [2]uint64{3, 99}) }, kind: "gpt", n: 1, warn: "overlaps the partition table's own"},
		"mbr past the end": {disk: func() []byte { return mbrDisk(100, record{0x83, 10, 20}, record{0x83, 90, 20}, record{0x83, 200, 1}) },
			kind: "mbr", n: 2, warn: "past the disk's end at 51200; cut"},
		"mbr overlap":    {disk: func() []byte { return mbrDisk(100, record{0x83, 10, 20}, record{0x82, 29, 20}) }, kind: "mbr", n: 2, warn: "overlap"},
		"mbr fake fat":   {disk: func() []byte { return mbrDisk(100, record{0x0c, 0, 100}) }, kind: "none"},
		"boot sector":    {disk: func() []byte { b := mbrDisk(100, record{0x83, 10, 20}); b[446] = 0x4e; return b }, kind: "none"},
		"ebr loop":       {disk: func() []byte { return ebrDisk(20, 0) }, err: "comes back to sector 20"},
		"ebr self":       {disk: func() []byte { return ebrDisk(20, 5, 5) }, err: "comes back to sector 25"},
		"ebr off disk":   {disk: func() []byte { return ebrDisk(20, 5000) }, kind: "mbr", n: 1, warn: "past the disk's end"},
		"ebr missing":    {disk: func() []byte { return ebrDisk(20, 5, 10, 15)[: 35*512 : 35*512] }, kind: "mbr", n: 3, warn: "past the disk's end"},
		"ebr unsigned":   {disk: func() []byte { b := ebrDisk(20, 5, 10); b[30*512+510] = 0; return b }, kind: "mbr", n: 2, warn: "no EBR in sector 30"},
		"ebr long":       {disk: func() []byte { return ebrDisk(20, links(300)...) }, err: "more than 256 links"},
		"mbr two chains": {disk: func() []byte { b := ebrDisk(20, 5); le.PutUint32(b[470:], 20); b[466], b[474] = 5, 9; return b }, kind: "mbr", n: 4, warn: "overlap"},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.disk()
			table, err := read(b, 512)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if table.Kind != c.kind || len(table.Parts) != c.n {
				t.Errorf("%s with %d partitions: %+v", table.Kind, len(table.Parts), table)
			}
			if all := strings.Join(table.Warnings, "\n"); !strings.Contains(all, c.warn) || c.warn == "" && all != "" {
				t.Errorf("warnings %q, want %q", all, c.warn)
			}
			if (table.Repair != nil) != strings.Contains(c.warn, "primary GPT is damaged") {
				t.Errorf("repair %v", table.Repair)
			}
		})
	}
}

// TestOutside has what belongs to no partition that is listed, and is of use:
// partitions of a hybrid MBR that the GPT has not, and the database of a dynamic
// disk.
func TestOutside(t *testing.T) {
	hybrid := func(broken bool) []byte {
		b := gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{100, 199})
		record{0x83, 50, 10}.put(b, 1)
		record{0x0c, 300, 100}.put(b, 2)
		if broken {
			b[512] = 1
		}
		return b
	}
	for name, c := range map[string]struct {
		disk []byte
		want image.Extent
		warn string
	}{
		"hybrid":              {hybrid(false), image.Extent{Start: 300 * 512, Size: 100 * 512}, "partition 3 of the hybrid MBR"},
		"hybrid, from backup": {hybrid(true), image.Extent{Start: 300 * 512, Size: 100 * 512}, "partition 3 of the hybrid MBR"},
		"dynamic": {mbrDisk(5000, record{0x42, 63, 500}, record{0x42, 600, 500}),
			image.Extent{Start: 2952 * 512, Size: 1 << 20}, "dynamic disk"},
		"small dynamic": {mbrDisk(100, record{0x42, 63, 30}), image.Extent{Start: 0, Size: 100 * 512}, "dynamic disk"},
	} {
		table, err := read(c.disk, 512)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		all := strings.Join(table.Warnings, "\n")
		if !slices.Contains(table.Metadata, c.want) || strings.Count(all, c.warn) != 1 || strings.Contains(all, "partition 2 of the hybrid") {
			t.Errorf("%s: kept %v, want %v; warnings %q", name, table.Metadata, c.want, all)
		}
	}
}

type record struct {
	kind           byte
	start, sectors uint32
}

func (r record) put(sector []byte, slot int) {
	p := sector[446+16*slot:]
	p[4] = r.kind
	binary.LittleEndian.PutUint32(p[8:], r.start)
	binary.LittleEndian.PutUint32(p[12:], r.sectors)
	sector[510], sector[511] = 0x55, 0xaa
}

func mbrDisk(sectors int, records ...record) []byte {
	b := make([]byte, sectors*512)
	for i, r := range records {
		r.put(b, i)
	}
	return b
}

// ebrDisk has an extended partition at sector start whose chain goes through
// the links, relative to it; each EBR has one logical partition.
func ebrDisk(start int, links ...int) []byte {
	b := mbrDisk(1000, record{0x05, uint32(start), 900})
	at := start
	for _, l := range append([]int{}, links...) {
		record{0x83, 1, 2}.put(b[at*512:at*512+512], 0)
		record{0x05, uint32(l), 3}.put(b[at*512:at*512+512], 1)
		if at = start + l; at >= 1000 {
			return b
		}
	}
	if binary.LittleEndian.Uint32(b[at*512+458:]) == 0 {
		record{0x83, 1, 2}.put(b[at*512:at*512+512], 0)
	}
	return b
}

func links(n int) []int {
	l := make([]int, n)
	for i := range l {
		l[i] = 3 * (i + 1)
	}
	return l
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestReadError(t *testing.T) {
	if _, err := ptable.Read(failing{os.ErrPermission}, 1<<20, 512); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
	if _, err := ptable.Read(failing{}, 1<<20, 520); err == nil {
		t.Error("sectors of 520 bytes")
	}
}

// FuzzRead changes bytes of sound disks: patches is a list of three-byte
// offsets and a new value each.
func FuzzRead(f *testing.F) {
	bases := []struct {
		disk   []byte
		sector int
	}{
		{gptDisk(60, 512, 4, [2]uint64{10, 20}, [2]uint64{21, 40}), 512},
		{gptDisk(20, 4096, 4, [2]uint64{10, 12}), 4096},
		{ebrDisk(20, 5, 10)[:60*512], 512},
	}
	for i := range bases {
		f.Add(byte(i), true, []byte{0, 1, 0xc2, 5, 0, 2, 0x48, 7})
	}
	f.Fuzz(func(t *testing.T, base byte, fix bool, patches []byte) {
		sector := bases[int(base)%len(bases)].sector
		b := bytes.Clone(bases[int(base)%len(bases)].disk)
		for ; len(patches) >= 4; patches = patches[4:] {
			b[(int(patches[0])<<16|int(patches[1])<<8|int(patches[2]))%len(b)] = patches[3]
		}
		if fix {
			fixCRCs(b, sector)
		}
		table, err := read(b, sector)
		if err != nil {
			return
		}
		for _, p := range table.Parts {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > int64(len(b)) {
				t.Fatalf("partition %+v on a disk of %d", p, len(b))
			}
		}
		for _, e := range slices.Concat(table.Gaps(), table.Metadata, table.Backup) {
			if e.Start < 0 || e.Size < 0 || e.Start+e.Size > int64(len(b)) {
				t.Fatalf("extent %+v on a disk of %d", e, len(b))
			}
		}
		if table.Repair != nil {
			fuzzRepair(t, b, sector, table)
		}
		if table.GPT != nil {
			fuzzFit(t, b, sector, *table.GPT)
		}
	})
}

// fixCRCs lets the fuzzer's changes get past the checksums.
func fixCRCs(b []byte, sector int) {
	if len(b) < 2*sector {
		return
	}
	h := b[sector : 2*sector]
	le := binary.LittleEndian
	at, n := le.Uint64(h[72:]), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if at < 1<<20 && n < 1<<20 && at*uint64(sector)+n <= uint64(len(b)) {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(b[at*uint64(sector):][:n]))
	}
	if le.Uint32(h[12:]) == 92 {
		seal(h)
	}
}

// fuzzRepair repairs b, which must then have the same table.
func fuzzRepair(t *testing.T, b []byte, sector int, table *ptable.Table) {
	repair(b, table)
	again, err := read(b, sector)
	if err != nil || again.Repair != nil || !slices.Equal(again.Parts, table.Parts) || *again.GPT != *table.GPT {
		t.Fatalf("repaired: %+v, error %v; before %+v", again, err, table)
	}
}

// repair does to a disk what capture does to an image.
func repair(b []byte, table *ptable.Table) {
	for _, r := range table.Repair {
		copy(b[r.Start:], r.Data)
	}
}

// TestRepair damages the primary GPT in all the ways that matter and wants
// back, byte for byte, the disk as it was.
func TestRepair(t *testing.T) {
	le := binary.LittleEndian
	for _, sector := range []int{512, 4096} {
		good := gptDisk(300, sector, 16, [2]uint64{70, 90}, [2]uint64{100, 200})
		moved := bytes.Clone(good) // the entries begin in sector 60, before them is boot code
		es := (16*128 + sector - 1) / sector
		copy(moved[60*sector:], good[2*sector:2*sector+16*128])
		for i := 2 * sector; i < 60*sector; i++ {
			moved[i] = 'b'
		}
		for _, at := range []int{sector, 299 * sector} {
			le.PutUint64(moved[at+40:], uint64(60+es))
		}
		le.PutUint64(moved[sector+72:], 60)
		seal(moved[sector:])
		seal(moved[299*sector:])
		for name, c := range map[string]struct {
			disk []byte
			edit func(b []byte)
		}{
			"header gone":                 {good, func(b []byte) { clear(b[sector : 2*sector]) }},
			"header torn":                 {good, func(b []byte) { b[sector+60]++ }},
			"header of another place":     {good, func(b []byte) { le.PutUint64(b[sector+24:], 7); seal(b[sector:]) }},
			"entries torn":                {good, func(b []byte) { b[2*sector+33]++ }},
			"entries gone":                {good, func(b []byte) { clear(b[2*sector : 2*sector+16*128]) }},
			"both gone":                   {good, func(b []byte) { clear(b[sector : 2*sector+16*128]) }},
			"moved, header gone":          {moved, func(b []byte) { clear(b[sector : 2*sector]) }},
			"moved, header torn":          {moved, func(b []byte) { b[sector+60]++ }},
			"moved, entries torn":         {moved, func(b []byte) { b[60*sector+33]++ }},
			"moved, entries gone":         {moved, func(b []byte) { clear(b[60*sector : 60*sector+16*128]) }},
			"moved, header and one entry": {moved, func(b []byte) { b[sector+60]++; b[60*sector+1]++ }},
		} {
			b := bytes.Clone(c.disk)
			c.edit(b)
			table, err := read(b, sector)
			if err != nil || table.Repair == nil {
				t.Fatalf("%s, sectors of %d: %+v, error %v", name, sector, table, err)
			}
			repair(b, table)
			if !bytes.Equal(b, c.disk) {
				t.Errorf("%s, sectors of %d: the repaired disk is not the one before", name, sector)
			}
		}
	}
}

// unreadable is a disk on which one sector cannot be read.
type unreadable struct {
	*bytes.Reader
	at int64
}

func (u unreadable) ReadAt(b []byte, off int64) (int, error) {
	if off <= u.at && u.at < off+int64(len(b)) {
		return 0, os.ErrDeadlineExceeded
	}
	return u.Reader.ReadAt(b, off)
}

// TestUnreadable has a bad sector in either GPT, and one in each.
func TestUnreadable(t *testing.T) {
	b := gptDisk(1000, 512, 128, [2]uint64{40, 99})
	for at, want := range map[int64]string{512: "primary GPT is damaged", 2048: "primary GPT is damaged",
		999 * 512: "backup GPT cannot be read", 990 * 512: "backup GPT cannot be read"} {
		table, err := ptable.Read(unreadable{bytes.NewReader(b), at}, int64(len(b)), 512)
		if err != nil || len(table.Parts) != 1 || !strings.Contains(strings.Join(table.Warnings, " "), want) {
			t.Errorf("sector at %d: %+v, error %v", at, table, err)
		}
	}
	clear(b[999*512:])
	if _, err := ptable.Read(unreadable{bytes.NewReader(b), 512}, int64(len(b)), 512); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no GPT left: %v", err)
	}
}

func fuzzFit(t *testing.T, b []byte, sector int, g image.GPT) {
	n, err := ptable.HeadSize(b, sector)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{int64(len(b)), int64(len(b)) + 10000, 1 << 40, int64(len(b)) / 2} {
		f, err := ptable.Fit(b[:n], sector, size)
		if err != nil {
			continue
		}
		back, err := ptable.Unfit(f.Head, sector, size, g)
		if err != nil || !bytes.Equal(back, b[:2*sector]) {
			t.Fatalf("fit to %d and back: %v", size, err)
		}
	}
}
