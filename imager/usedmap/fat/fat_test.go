package fat_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"huck/imager/usedmap/fat"
	"huck/imager/usedmap/internal/probetest"
)

// volume makes a FAT filesystem of one-sector clusters with a few of them
// used; bits is 12, 16 or 32.
func volume(bits int) []byte {
	le := binary.LittleEndian
	clusters := map[int]int{12: 100, 16: 4100, 32: 70}[bits]
	tableSectors := ((clusters+2)*bits/8 + 511) / 512
	root := 16
	b := make([]byte, 512)
	copy(b, "\xeb\x3c\x90mkfs.fat")
	le.PutUint16(b[11:], 512)
	b[13], b[14], b[16], b[21] = 1, 4, 2, 0xf8
	if bits == 32 {
		root = 0
		le.PutUint32(b[36:], uint32(tableSectors))
		b[66] = 0x29
	} else {
		le.PutUint16(b[17:], uint16(root*16))
		le.PutUint16(b[22:], uint16(tableSectors))
		b[38] = 0x29
	}
	sectors := 4 + 2*tableSectors + root + clusters
	le.PutUint32(b[32:], uint32(sectors))
	b[510], b[511] = 0x55, 0xaa
	b = append(b, make([]byte, (sectors-1)*512)...)
	for i := range 2 {
		table := b[(4+i*tableSectors)*512:]
		copy(table, "\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x0f\x00\x50\x00\x00\xf0\xff")
	}
	return b
}

func TestProbe(t *testing.T) {
	for bits, want := range map[int]int64{12: 8, 16: 5, 32: 2} {
		b := volume(bits)
		res, err := fat.Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil || res == nil || res.Used == nil || len(res.Warnings) != 0 {
			t.Fatalf("FAT%d: %+v, error %v", bits, res, err)
		}
		data := int64(len(b)) - map[int]int64{12: 100, 16: 4100, 32: 70}[bits]*512
		if got := (res.Used.Bytes() - data) / 512; got != want {
			t.Errorf("FAT%d: %d clusters used, want %d", bits, got, want)
		}
	}
}

// TestNotFAT has boot sectors of other kinds.
func TestNotFAT(t *testing.T) {
	for name, edit := range map[string]func(b []byte){
		"no signature":       func(b []byte) { b[510] = 0 },
		"no jump":            func(b []byte) { b[0] = 0 },
		"ntfs":               func(b []byte) { copy(b[3:], "NTFS    ") },
		"sectors of 513":     func(b []byte) { b[11] = 1 },
		"sectors of 256":     func(b []byte) { b[12] = 1 },
		"sectors of 8192":    func(b []byte) { b[12] = 32 },
		"no sectors":         func(b []byte) { b[13] = 0 },
		"clusters of 3":      func(b []byte) { b[13] = 3 },
		"nothing reserved":   func(b []byte) { b[14] = 0 },
		"no table":           func(b []byte) { b[16] = 0 },
		"unknown medium":     func(b []byte) { b[21] = 0xf1 },
		"shorter than it is": func(b []byte) { clear(b) },
	} {
		b := volume(16)
		edit(b)
		if res, err := fat.Probe(bytes.NewReader(b), int64(len(b))); res != nil || err != nil {
			t.Errorf("%s: %+v, error %v", name, res, err)
		}
	}
	if res, err := fat.Probe(bytes.NewReader(nil), 100); res != nil || err != nil {
		t.Errorf("100 bytes: %+v, error %v", res, err)
	}
}

// FuzzProbe changes bytes of sound filesystems: patches is a list of a
// three-byte offset and a new value each.
func FuzzProbe(f *testing.F) {
	kinds := []int{12, 16, 32}
	for i := range kinds {
		f.Add(byte(i), []byte{0, 0, 13, 2, 0, 8, 9, 7})
	}
	f.Fuzz(func(t *testing.T, kind byte, patches []byte) {
		b := volume(kinds[int(kind)%len(kinds)])
		for at, value := range probetest.Patches(patches) {
			b[at%len(b)] = value
		}
		res, err := fat.Probe(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		probetest.Check(t, int64(len(b)), res, err)
	})
}
