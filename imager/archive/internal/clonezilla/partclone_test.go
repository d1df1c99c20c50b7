package clonezilla_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"huck/imager/archive/internal/clonezilla"
	"huck/imager/image"
)

// small lists images that partclone.ext2 (and of them "all" partclone.imager) of
// version 0.3.23 made of testdata/ext2.gz: without checksums, with one for
// three blocks, and with running ones for two.
var small = []string{"none", "crc", "noreseed", "all"}

func gunzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// memory is a device that insists on its length.
type memory []byte

func (m memory) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > int64(len(m)) {
		return 0, errors.New("outside the filesystem")
	}
	return copy(m[at:], b), nil
}

func restore(t testing.TB, img []byte, size int) (memory, error) {
	t.Helper()
	m := make(memory, size)
	got, err := clonezilla.Restore(t.Context(), bytes.NewReader(img), m)
	if err == nil && got != int64(size) {
		t.Errorf("a filesystem of %d bytes, want %d", got, size)
	}
	return m, err
}

func TestRestoreRealImages(t *testing.T) {
	want := gunzip(t, "ext2.gz")
	for _, kind := range small {
		got, err := restore(t, gunzip(t, "ext2-"+kind+".img.gz"), len(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: not as it was, %v", kind, err)
		}
	}
}

// v1 makes an image of format 0001 by its description, as no partclone writes
// it any more: a header of 4160 bytes, a byte for each block, BiTmAgIc, and
// behind each block a CRC-32 that goes on from the one before, is not inverted
// at the end and takes the block's first byte for all of its bytes.
func v1(fs []byte, blockSize int, used []byte) []byte {
	h := make([]byte, 4160)
	copy(h, "partclone-imageEXTFS")
	copy(h[30:], "0001")
	le := binary.LittleEndian
	le.PutUint32(h[36:], uint32(blockSize))
	le.PutUint64(h[40:], uint64(len(fs)))
	le.PutUint64(h[48:], uint64(len(used)))
	le.PutUint64(h[56:], uint64(bytes.Count(used, []byte{1})))
	b := append(append(h, used...), "BiTmAgIc"...)
	var sum uint32
	for i, u := range used {
		if u == 1 {
			block := fs[i*blockSize:][:blockSize]
			b = append(b, block...)
			sum = crc32.Update(sum, crc32.IEEETable, bytes.Repeat(block[:1], blockSize))
			b = le.AppendUint32(b, ^sum)
		}
	}
	return b
}

// pattern is a filesystem whose unused blocks are zeros. A value of a bitmap
// that is neither 0 nor 1 is of an unused block.
func pattern(blockSize int, used []byte) []byte {
	b := make([]byte, blockSize*len(used))
	for i, u := range used {
		if u == 1 {
			for j := range blockSize {
				b[i*blockSize+j] = byte(i + j/7 + 1)
			}
		}
	}
	return b
}

func TestRestoreFormat1(t *testing.T) {
	used := []byte{1, 0, 1, 1, 0, 0, 7, 0, 0, 1, 1}
	fs := pattern(1024, used)
	img := v1(fs, 1024, used)
	got, err := restore(t, img, len(fs))
	if err != nil || !bytes.Equal(got, fs) {
		t.Errorf("not as it was: %v", err)
	}
	// A device's tail is no block, but a wrong size is not believed.
	binary.LittleEndian.PutUint64(img[40:], uint64(len(fs)+512))
	if _, err := restore(t, img, len(fs)+512); err != nil {
		t.Error(err)
	}
	binary.LittleEndian.PutUint64(img[40:], uint64(len(fs))*8)
	if _, err := restore(t, img, len(fs)); err != nil {
		t.Error(err)
	}
}

// header2 edits a header of format 0002 and makes its checksum right.
func header2(img []byte, edit func(h []byte)) []byte {
	b := bytes.Clone(img)
	edit(b)
	binary.LittleEndian.PutUint32(b[106:], ^crc32.ChecksumIEEE(b[:106]))
	return b
}

// TestRestoreXXH64 takes apart an image without checksums and puts in those of
// that kind, for which Debian's partclone is not built.
func TestRestoreXXH64(t *testing.T) {
	want, img := gunzip(t, "ext2.gz"), gunzip(t, "ext2-none.img.gz")
	data := 110 + 64/8 + 4
	for _, reseed := range []byte{0, 1} {
		b := header2(img[:data], func(h []byte) {
			copy(h[96:], []byte{0x30, 0, 8, 0, 5, 0, 0, 0, reseed})
		})
		sum := xxhash.New()
		for i := data; i < len(img); {
			n := min(5*1024, len(img)-i)
			_, _ = sum.Write(img[i:][:n])
			b = binary.LittleEndian.AppendUint64(append(b, img[i:][:n]...), sum.Sum64())
			if i += n; reseed == 1 {
				sum.Reset()
			}
		}
		got, err := restore(t, b, len(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("reseed %d: not as it was, %v", reseed, err)
		}
		b[len(b)-1] ^= 1
		if _, err := restore(t, b, len(want)); !errors.Is(err, image.ErrFormat) {
			t.Errorf("a wrong checksum: %v", err)
		}
	}
}

func TestRestoreCutShort(t *testing.T) {
	used := []byte{1, 0, 1}
	old := pattern(512, used)
	for name, img := range map[string][]byte{
		"0001": v1(old, 512, used), "none": gunzip(t, "ext2-none.img.gz"), "crc": gunzip(t, "ext2-crc.img.gz"),
	} {
		for n := 0; n < len(img); n += 1 + n/50 {
			_, err := clonezilla.Restore(t.Context(), bytes.NewReader(img[:n]), make(memory, 1<<16))
			if !errors.Is(err, image.ErrFormat) || !strings.Contains(err.Error(), "byte ") {
				t.Fatalf("%s: the first %d of %d bytes: %v", name, n, len(img), err)
			}
		}
		_, err := clonezilla.Restore(t.Context(), bytes.NewReader(append(img, 0)), make(memory, 1<<16))
		if err == nil || !strings.Contains(err.Error(), "something follows") {
			t.Errorf("%s: a byte too many: %v", name, err)
		}
	}
}

// TestRestoreFlippedBit flips a bit here and there in an image that has
// checksums of everything.
func TestRestoreFlippedBit(t *testing.T) {
	img := gunzip(t, "ext2-crc.img.gz")
	for i := 0; i < len(img); i += 1 + i/500 {
		b := bytes.Clone(img)
		b[i] ^= 1 << (i % 8)
		if _, err := clonezilla.Restore(t.Context(), bytes.NewReader(b), make(memory, 1<<16)); !errors.Is(err, image.ErrFormat) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i, err)
		}
	}
}

func TestRestoreLies(t *testing.T) {
	img := gunzip(t, "ext2-crc.img.gz")
	put64 := func(at int, v uint64) func([]byte) {
		return func(h []byte) { binary.LittleEndian.PutUint64(h[at:], v) }
	}
	for _, c := range []struct {
		want string
		edit func(h []byte)
	}{
		{"format \"0003\"", func(h []byte) { h[33] = '3' }},
		{"byte order", func(h []byte) { h[34], h[35] = h[35], h[34] }},
		{"blocks of 0 bytes", func(h []byte) { clear(h[84:88]) }},
		{"blocks of 4294966784 bytes", func(h []byte) { copy(h[84:], []byte{0, 0xfe, 0xff, 0xff}) }},
		{"a filesystem of 0 bytes", put64(52, 0)},
		{"a filesystem of 18446744073709551615 bytes", put64(52, 1<<64-1)},
		{"18446744073709551615 blocks", put64(60, 1<<64-1)},
		{"65 blocks of 1024 bytes", put64(60, 65)},
		{"capture that", func(h []byte) { put64(52, 1<<50)(h); put64(60, 1<<30+1)(h) }},
		{"cut short in its bitmap", func(h []byte) { put64(52, 1<<50)(h); put64(60, 1<<30)(h) }},
		{"XXH128", func(h []byte) { h[96] = 0x31 }},
		{"unknown kind 0x21", func(h []byte) { h[96] = 0x21 }},
		{"checksums of 65535 bytes", func(h []byte) { h[98], h[99] = 0xff, 0xff }},
		{"after no block", func(h []byte) { clear(h[100:104]) }},
		{"bitmap of kind 8", func(h []byte) { h[105] = 8 }},
	} {
		_, err := clonezilla.Restore(t.Context(), bytes.NewReader(header2(img, c.edit)), make(memory, 1<<16))
		if !errors.Is(err, image.ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
}

func TestParseDump(t *testing.T) {
	const old = "# partition table of /dev/sda\nunit: sectors\n\n/dev/sda1 : start=       63, size=     1985, Id= b, bootable\n" +
		"/dev/sda2 : start=        0, size=        0, Id= 0\n"
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{old, 1, ""},
		{"label: gpt\ndevice: /dev/nvme0n1\nunit: sectors\n\n/dev/nvme0n1p1 : start= 2048, size= 4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=A, name=\"a, b\"\n", 0, "no partition of sda"},
		{"", 0, "no partition"},
		{"label: sun\n", 0, "only gpt and dos"},
		{"unit: cylinders\n" + old, 0, "only sectors"},
		{"sector-size: 4096\n" + old, 0, "sectors of 512 bytes"},
		{"/dev/sda1 : start=1", 0, "cannot be read"},
		{"/dev/sda0 : start=1, size=1, type=83", 0, "no partition of sda"},
		{"/dev/sda1 : start=9223372036854775807, size=1, type=83", 0, "reaches past"},
		{"/dev/sda1 : start=1, size=99999999999999999999, type=83", 0, "reaches past"},
	} {
		n, err := clonezilla.ParseDump(c.text, "sda")
		if n != c.n || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %d partitions, %v", c.text, n, err)
		}
	}
}

// FuzzPartclone restores whatever it is given, also with the header's checksum
// made right, and nothing outside the filesystem may be written.
func FuzzPartclone(f *testing.F) {
	for _, kind := range small {
		f.Add(gunzip(f, "ext2-"+kind+".img.gz"))
	}
	used := []byte{1, 0, 1}
	f.Add(v1(pattern(512, used), 512, used))
	f.Fuzz(func(t *testing.T, b []byte) {
		images := [][]byte{b}
		if len(b) >= 110 {
			images = append(images, header2(b, func([]byte) {}))
		}
		for _, img := range images {
			d := &bounds{}
			size, err := clonezilla.Restore(t.Context(), bytes.NewReader(img), d)
			if err == nil && (size <= 0 || d.end > size || d.bytes > int64(len(img))) {
				t.Fatalf("%d bytes written up to %d, of an image of %d and a filesystem of %d", d.bytes, d.end, len(img), size)
			}
		}
	})
}

// bounds is a device of any size.
type bounds struct{ bytes, end int64 }

func (d *bounds) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 {
		return 0, errors.New("before the filesystem")
	}
	d.bytes, d.end = d.bytes+int64(len(b)), max(d.end, at+int64(len(b)))
	return len(b), nil
}
