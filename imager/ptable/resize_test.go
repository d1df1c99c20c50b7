package ptable_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"huck/imager/ptable"
)

// TestResizeRoundTrip changes partitions of random tables and undoes it.
func TestResizeRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 1000 {
		sector := []int{512, 4096}[rng.IntN(2)]
		n := []int{4, 128, 200}[rng.IntN(3)]
		first := 70 + rng.Uint64N(20)
		parts := [][2]uint64{{60, 65}, {first, first + rng.Uint64N(50)}}
		disk := gptDisk(400, sector, n, parts...)
		s := int64(sector)
		r := ptable.Resize{Number: 2, Start: int64(first) * s, From: int64(parts[1][1]-first+1) * s, To: (51 + rng.Int64N(100)) * s}
		end, err := ptable.HeadSize(disk, sector)
		if err != nil {
			t.Fatal(i, err)
		}
		head, err := r.GPT(disk[:end], sector)
		if err != nil {
			t.Fatal(i, err)
		}
		copied := bytes.Clone(disk)
		copy(copied, head)
		table, err := read(copied, sector)
		if err != nil || table.Repair != nil {
			t.Fatalf("%d: %+v, %v", i, table, err)
		}
		if p := table.Parts[1]; p.Number != 2 || p.Start != r.Start || p.Size != r.To || table.Parts[0].Size != 6*s {
			t.Fatalf("%d: %+v after %+v", i, table.Parts, r)
		}
		if back, err := r.Inverse().GPT(head, sector); err != nil || !bytes.Equal(back, disk[:end]) {
			t.Fatalf("%d: undone: %v", i, err)
		}
	}
	disk := mbrDisk(1000, record{0x0c, 10, 20}, record{0x83, 40, 60})
	r := ptable.Resize{Number: 2, Start: 40 * 512, From: 60 * 512, To: 900 * 512}
	head, err := r.MBR(disk[:512], 512)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := r.Inverse().MBR(head, 512); err != nil || !bytes.Equal(back, disk[:512]) {
		t.Errorf("undone: %v", err)
	}
	copy(disk, head)
	if table, err := read(disk, 512); err != nil || table.Parts[1].Size != 900*512 || table.Parts[0].Size != 20*512 {
		t.Errorf("%+v, %v", table, err)
	}
}

func TestResizeRefuses(t *testing.T) {
	gpt := gptDisk(1000, 512, 128, [2]uint64{40, 99}, [2]uint64{100, 500})
	ok := ptable.Resize{Number: 2, Start: 100 * 512, From: 401 * 512, To: 600 * 512}
	if _, err := ok.GPT(gpt, 512); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(r *ptable.Resize)
		head []byte
		want error
		says string
	}{
		"number 0":     {func(r *ptable.Resize) { r.Number = 0 }, gpt, ptable.ErrResize, "128 entries"},
		"number 129":   {func(r *ptable.Resize) { r.Number = 129 }, gpt, ptable.ErrResize, "128 entries"},
		"unused entry": {func(r *ptable.Resize) { r.Number = 3 }, gpt, ptable.ErrResize, "partition 3"},
		"other start":  {func(r *ptable.Resize) { r.Start += 512 }, gpt, ptable.ErrResize, "sectors 100 to 500, not 101 to 501"},
		"other size":   {func(r *ptable.Resize) { r.From -= 512 }, gpt, ptable.ErrResize, "not 100 to 499"},
		"short head":   {func(*ptable.Resize) {}, gpt[:4096], ptable.ErrGPT, "entries end at 17408"},
		"no head":      {func(*ptable.Resize) {}, gpt[:512], ptable.ErrGPT, "head of 512"},
		"entries":      {func(*ptable.Resize) {}, append(append(bytes.Clone(gpt[:1500]), gpt[1500]+1), gpt[1501:]...), ptable.ErrGPT, "CRC"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ok
			c.edit(&r)
			if _, err := r.GPT(c.head, 512); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
}

func TestResizeMBRRefuses(t *testing.T) {
	disk := func() []byte {
		return mbrDisk(1000, record{0x83, 300, 60}, record{0x0c, 10, 20}, record{0x0f, 100, 100})
	}
	ok := ptable.Resize{Number: 1, Start: 300 * 512, From: 60 * 512, To: 600 * 512}
	if _, err := ok.MBR(disk(), 512); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		r    ptable.Resize
		edit func(b []byte)
		says string
	}{
		"logical":            {r: ptable.Resize{Number: 5, Start: 101 * 512, From: 512, To: 1024}, says: "logical"},
		"extended":           {r: ptable.Resize{Number: 3, Start: 100 * 512, From: 100 * 512, To: 200 * 512}, says: "MBR has"},
		"other size":         {r: ptable.Resize{Number: 1, Start: 300 * 512, From: 512, To: 600 * 512}, says: "60 sectors from 300, not 1 from 300"},
		"past 2 TiB":         {r: ptable.Resize{Number: 1, Start: 300 * 512, From: 60 * 512, To: 2 << 40}, says: "4294967295 in all"},
		"extended behind it": {r: ok, edit: func(b []byte) { binary.LittleEndian.PutUint32(b[446+32+8:], 400) }, says: "partition 3 ends behind"},
		"no signature":       {r: ok, edit: func(b []byte) { b[510] = 0 }, says: "no MBR"},
	} {
		t.Run(name, func(t *testing.T) {
			b := disk()
			if c.edit != nil {
				c.edit(b)
			}
			if _, err := c.r.MBR(b, 512); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
	full := ok
	full.To = (ptable.MaxMBRSectors - 300) * 512
	if _, err := full.MBR(disk(), 512); err != nil {
		t.Errorf("all an MBR can speak of: %v", err)
	}
}

// FuzzResize: whatever the table, a change that is made can be undone to the
// byte.
func FuzzResize(f *testing.F) {
	for _, b := range [][]byte{gptDisk(60, 512, 4, [2]uint64{40, 50}), mbrDisk(40, record{0x83, 10, 20})} {
		f.Add(b, 1, int64(40*512), int64(11*512), int64(20*512), false)
		f.Add(b, 1, int64(10*512), int64(20*512), int64(30*512), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, number int, start, from, to int64, mbr bool) {
		b = bytes.Clone(b)
		fixCRCs(b, 512)
		r := ptable.Resize{Number: number, Start: start, From: from, To: to}
		do, undo := r.GPT, r.Inverse().GPT
		if mbr {
			do, undo = r.MBR, r.Inverse().MBR
		}
		head, err := do(b, 512)
		if err != nil || start < 0 || from <= 0 || to <= 0 || (start|from|to)%512 != 0 || start > 1<<50 || from > 1<<50 || to > 1<<50 {
			return
		}
		back, err := undo(head, 512)
		if err != nil || !bytes.Equal(back, b) {
			t.Errorf("undone: %v", err)
		}
	})
}
