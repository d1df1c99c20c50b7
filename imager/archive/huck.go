package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/zeebo/blake3"

	"huck/imager/image"
)

const (
	magic      = "HUCKIMG\x01" // seven letters and the format version
	endMagic   = "HUCKEND\x01"
	headerSize = 72
	hashSize   = 32

	// featureDelta is the bit of a file that lacks chunks.
	featureDelta = 1

	// What a header may say, so that a lie costs no memory: the tag's limit is
	// ours, the others are those of image/FORMAT.md and of a store.
	maxTag      = 64 << 10
	maxManifest = 1 << 20
	maxMap      = 1 << 30
	maxBitmap   = image.MaxEntries / 8

	// bufferSize is how much is read or written at a time, in bytes.
	bufferSize = 1 << 20
)

// prologue is what stands in a file before the chunks (FORMAT.md, Prologue).
type prologue struct {
	tag      []byte   // JSON, or empty
	manifest []byte   // JSON
	chunkMap []byte   // compressed
	parent   image.ID // zero if it is no delta
	bitmap   []byte   // bit n: chunk n is in the file; nil if all are
	chunks   uint32   // how many chunks are in the file
}

// carries reports whether chunk n is in the file.
func (p *prologue) carries(n uint32) bool {
	return p.bitmap == nil || p.bitmap[n/8]>>(n%8)&1 != 0
}

func (p *prologue) header() []byte {
	var features uint32
	if !p.parent.IsZero() {
		features = featureDelta
	}
	b := append(make([]byte, 0, headerSize), magic...)
	b = binary.LittleEndian.AppendUint32(b, features)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.tag)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.manifest)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(p.chunkMap)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.bitmap)))
	b = binary.LittleEndian.AppendUint32(b, p.chunks)
	return append(b, p.parent[:]...)
}

// encoder writes a .huck file.
type encoder struct {
	w      *bufio.Writer
	sum    *blake3.Hasher // of all that was written
	n      int64          // how much that is
	length [4]byte        // of a chunk
}

func newEncoder(w io.Writer) *encoder {
	return &encoder{w: bufio.NewWriterSize(w, bufferSize), sum: blake3.New()}
}

func (e *encoder) write(b []byte) error {
	if _, err := e.w.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	_, _ = e.sum.Write(b) // never fails
	e.n += int64(len(b))
	return nil
}

// begin writes the prologue.
func (e *encoder) begin(p *prologue) error {
	if len(p.tag) > maxTag {
		return fmt.Errorf("tag of %d bytes, at most %d go into a file: use fewer labels", len(p.tag), maxTag)
	}
	for _, part := range [][]byte{p.header(), p.tag, p.manifest, p.chunkMap, p.bitmap} {
		if err := e.write(part); err != nil {
			return err
		}
	}
	return e.write(e.sum.Sum(nil))
}

// chunk writes the next chunk.
func (e *encoder) chunk(encoded []byte) error {
	binary.LittleEndian.PutUint32(e.length[:], uint32(len(encoded)))
	if err := e.write(e.length[:]); err != nil {
		return err
	}
	return e.write(encoded)
}

// end writes the trailer.
func (e *encoder) end() error {
	if err := e.write([]byte(endMagic)); err != nil {
		return err
	}
	if err := e.write(e.sum.Sum(nil)); err != nil {
		return err
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// decoder reads a .huck file.
type decoder struct {
	r   *bufio.Reader
	sum *blake3.Hasher // of all that was read
	n   int64          // how much that is
}

func newDecoder(r io.Reader) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, bufferSize), sum: blake3.New()}
}

// read fills b; what names it for messages.
func (d *decoder) read(b []byte, what string) error {
	if err := d.fill(b); err != nil {
		return d.unread(err, what)
	}
	return nil
}

func (d *decoder) fill(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	d.n += int64(n)
	_, _ = d.sum.Write(b[:n]) // never fails
	return err
}

// unread says in words why fill failed.
func (d *decoder) unread(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it is cut short: it ends after %d bytes, in %s: %w", d.n, what, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// readPart reads n bytes without believing that there are so many.
func (d *decoder) readPart(n uint64, what string) ([]byte, error) {
	var out bytes.Buffer
	for n > 0 {
		step := int(min(n, bufferSize))
		out.Grow(step)
		b := out.AvailableBuffer()[:step]
		if err := d.read(b, what); err != nil {
			return nil, err
		}
		out.Write(b)
		n -= uint64(step)
	}
	return out.Bytes(), nil
}

// readHash reads a hash that must be that of all before it.
func (d *decoder) readHash(what string) error {
	want := d.sum.Sum(nil)
	var got [hashSize]byte
	if err := d.read(got[:], what); err != nil {
		return err
	}
	if !bytes.Equal(got[:], want) {
		return fmt.Errorf("it is damaged within its first %d bytes: %s does not match: %w", d.n, what, image.ErrFormat)
	}
	return nil
}

// begin reads and verifies the prologue and the image it describes.
func (d *decoder) begin() (*prologue, *image.Image, error) {
	p, err := d.prologue()
	if err != nil {
		return nil, nil, err
	}
	img, err := image.Open(image.Sum(p.manifest), p.manifest, bytes.NewReader(p.chunkMap))
	if err != nil {
		return nil, nil, err
	}
	return p, img, p.check(img)
}

func (d *decoder) prologue() (*prologue, error) {
	var h [headerSize]byte
	if err := d.read(h[:], "the header"); err != nil {
		return nil, err
	}
	if string(h[:7]) != magic[:7] {
		return nil, fmt.Errorf("it is no .huck file: %w", image.ErrFormat)
	}
	le := binary.LittleEndian
	features := le.Uint32(h[8:])
	if h[7] != magic[7] || features&^featureDelta != 0 {
		return nil, fmt.Errorf("format version %d with features %#x, this program knows version %d: use a newer one: %w", h[7], features, magic[7], image.ErrFormat)
	}
	p := &prologue{chunks: le.Uint32(h[36:]), parent: image.ID(h[40:72])}
	tag, man, cmap, bitmap := uint64(le.Uint32(h[16:])), uint64(le.Uint32(h[20:])), le.Uint64(h[24:]), uint64(le.Uint32(h[32:]))
	delta := features&featureDelta != 0
	if tag > maxTag || man > maxManifest || cmap > maxMap || bitmap > maxBitmap || delta == p.parent.IsZero() || !delta && bitmap != 0 {
		return nil, fmt.Errorf("its header is damaged: %w", image.ErrFormat)
	}
	var err error
	for _, part := range []struct {
		to   *[]byte
		n    uint64
		what string
	}{{&p.tag, tag, "the tag"}, {&p.manifest, man, "the manifest"}, {&p.chunkMap, cmap, "the chunk map"}, {&p.bitmap, bitmap, "the list of chunks"}} {
		if *part.to, err = d.readPart(part.n, part.what); err != nil {
			return nil, err
		}
	}
	if !delta {
		p.bitmap = nil
	}
	return p, d.readHash("the hash of the prologue")
}

// check compares the prologue's list of chunks with the image.
func (p *prologue) check(img *image.Image) error {
	chunks := img.Layout.Chunks()
	listed := chunks
	if p.bitmap != nil {
		listed = 0
		for _, b := range p.bitmap {
			listed += bits.OnesCount8(b)
		}
	}
	switch {
	case !p.parent.IsZero() && len(p.bitmap) != (chunks+7)/8:
		return fmt.Errorf("its list of chunks has %d bytes for %d chunks: %w", len(p.bitmap), chunks, image.ErrFormat)
	case p.bitmap != nil && chunks%8 != 0 && p.bitmap[len(p.bitmap)-1]>>(chunks%8) != 0:
		return fmt.Errorf("its list of chunks names some that the image does not have: %w", image.ErrFormat)
	case listed != int(p.chunks):
		return fmt.Errorf("it says that it has %d chunks and lists %d: %w", p.chunks, listed, image.ErrFormat)
	}
	return nil
}

// chunk reads the encoded bytes of chunk n, of size bytes decoded, into buf,
// which must have room for that, and for 4 bytes.
func (d *decoder) chunk(buf []byte, n uint32, size int) ([]byte, error) {
	if err := d.fill(buf[:4:4]); err != nil {
		return nil, d.unread(err, fmt.Sprintf("chunk %d", n))
	}
	length := binary.LittleEndian.Uint32(buf)
	if length == 0 || length > uint32(size) {
		return nil, fmt.Errorf("it is damaged at byte %d: chunk %d of %d bytes is encoded as %d: %w", d.n-4, n, size, length, image.ErrFormat)
	}
	if err := d.fill(buf[:length]); err != nil {
		return nil, d.unread(err, fmt.Sprintf("chunk %d", n))
	}
	return buf[:length], nil
}

// end reads the trailer and insists that nothing follows.
func (d *decoder) end() error {
	var b [len(endMagic)]byte
	if err := d.read(b[:], "the trailer"); err != nil {
		return err
	}
	if string(b[:]) != endMagic {
		return fmt.Errorf("it is damaged at byte %d: no trailer: %w", d.n-int64(len(b)), image.ErrFormat)
	}
	if err := d.readHash("the hash in the trailer"); err != nil {
		return err
	}
	if _, err := d.r.ReadByte(); err == nil {
		return fmt.Errorf("something follows its trailer at byte %d: %w", d.n, image.ErrFormat)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read past the trailer: %w", err)
	}
	return nil
}
