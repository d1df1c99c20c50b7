package image

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// blockSize is the size in bytes of a zstd block before encoding.
const blockSize = 64 << 10

// sampleSize is how many bytes tell how well a chunk compresses: well if they do
// to less than wellPercent. A chunk of fewer than minSampled is not asked.
const (
	sampleSize  = 8 << 10
	wellPercent = 30
	minSampled  = 8 * sampleSize
)

// Encoder encodes chunks, the same chunk always in the same way. It is not safe
// for concurrent use: every worker has its own.
type Encoder struct {
	fast, thorough *zstd.Encoder
	sample         []byte
}

// NewEncoder returns an encoder that uses one core.
func NewEncoder() *Encoder {
	return &Encoder{
		// A window of 64 KiB holds the blocks to that size, and the second one makes
		// the window a chunk again: literals of a disk's files vary too much for one
		// Huffman table a chunk. With the entropy coding of blocks without matches,
		// too, that is 0.6 % smaller than blocks of 128 KiB without it, for 2 % of the
		// time; half the block would be 0.4 % smaller for 6 %.
		fast: newEncoder(zstd.SpeedFastest, zstd.WithWindowSize(blockSize), zstd.WithWindowSize(RegionSize), zstd.WithAllLitEntropyCompression(true)),
		// Looking for better matches takes a sixth longer where most is found to
		// match, and two thirds where little is, for a twentieth less in either. So
		// only the former are looked at like that: the whole of a disk is 0.9 %
		// smaller for 11 % of the time.
		thorough: newEncoder(zstd.SpeedDefault, zstd.WithWindowSize(RegionSize)),
	}
}

func newEncoder(level zstd.EncoderLevel, more ...zstd.EOption) *zstd.Encoder {
	all := append([]zstd.EOption{zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)}, more...)
	z, err := zstd.NewWriter(nil, all...)
	if err != nil { // the only errors are about option values, and these are constants
		panic(err)
	}
	return z
}

// Encode appends the encoded form of chunk to dst: a zstd frame, or the chunk
// itself where that is not longer (FORMAT.md, Encoded chunk).
func (e *Encoder) Encode(dst, chunk []byte) []byte {
	n, z := len(dst), e.fast
	if e.compressesWell(chunk) {
		z = e.thorough
	}
	dst = z.EncodeAll(chunk, dst)
	if len(dst)-n >= len(chunk) {
		dst = append(dst[:n], chunk...)
	}
	return dst
}

// compressesWell guesses by a sample from the middle.
func (e *Encoder) compressesWell(chunk []byte) bool {
	if len(chunk) < minSampled {
		return false
	}
	e.sample = e.fast.EncodeAll(chunk[len(chunk)/2:][:sampleSize], e.sample[:0])
	return len(e.sample)*100 < sampleSize*wellPercent
}

// Decoder decodes and verifies chunks. It is not safe for concurrent use:
// every worker has its own.
type Decoder struct{ z *zstd.Decoder }

// NewDecoder returns a decoder that uses one core and refuses frames that
// would grow beyond a region.
func NewDecoder() *Decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(RegionSize),
		zstd.WithDecoderMaxWindow(RegionSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &Decoder{z}
}

// ChunkError tells that an encoded chunk does not decode to what its ID
// promises.
type ChunkError struct {
	ID  ID
	Why string
}

func (e *ChunkError) Error() string {
	return fmt.Sprintf("image: chunk %s: %s", e.ID.Short(), e.Why)
}

// DecodeSlack is how many bytes of capacity behind a chunk make Decode a third
// faster: it may then copy in whole registers (zstd's compressedBlockOverAlloc).
const DecodeSlack = 16

// Decode decodes encoded into buf, whose capacity must be at least size and is
// better DecodeSlack more, and verifies that the result has the ID and size
// bytes. It may spoil the slack. The result may alias encoded. Any error is a
// *ChunkError.
func (d *Decoder) Decode(buf, encoded []byte, id ID, size int) ([]byte, error) {
	chunk, err := d.decode(buf, encoded, id, size)
	if err != nil {
		return nil, err
	}
	if got := Sum(chunk); got != id {
		return nil, &ChunkError{id, "content hashes to " + got.Short()}
	}
	return chunk, nil
}

// decode is Decode but for verifying the ID.
func (d *Decoder) decode(buf, encoded []byte, id ID, size int) ([]byte, error) {
	if len(encoded) > size {
		return nil, &ChunkError{id, fmt.Sprintf("%d encoded bytes for a chunk of %d", len(encoded), size)}
	}
	if len(encoded) == size {
		return encoded, nil
	}
	chunk, err := d.z.DecodeAll(encoded, buf[:0:min(cap(buf), size+DecodeSlack)])
	if err != nil {
		return nil, &ChunkError{id, "does not decode: " + err.Error()}
	}
	if len(chunk) != size {
		return nil, &ChunkError{id, fmt.Sprintf("decodes to %d bytes, want %d", len(chunk), size)}
	}
	return chunk, nil
}

// Tag returns the encoding tag: the first 32 bits, little-endian, of the hash
// of an encoded chunk. It tells two encodings of one chunk apart.
func Tag(encoded []byte) uint32 {
	id := Sum(encoded)
	return binary.LittleEndian.Uint32(id[:])
}

// CompressMap returns a chunk map's bytes as they are stored and sent: one
// zstd frame.
func CompressMap(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("image: compress map: %v", err)
	}
	if _, err := z.Write(b); err != nil {
		return nil, fmt.Errorf("image: compress map: %v", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("image: compress map: %v", err)
	}
	return out.Bytes(), nil
}

// OpenMap decompresses and parses the chunk map that man names and verifies
// its digest.
func OpenMap(compressed io.Reader, man *Manifest) (*Map, error) {
	want := mapHeader + man.Map.Regions*mapEntry
	z, err := zstd.NewReader(compressed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, fmt.Errorf("image: chunk map: %v", err)
	}
	defer z.Close()
	sum := blake3.New()
	r := bufio.NewReaderSize(io.TeeReader(io.LimitReader(z, int64(want)+1), sum), 64<<10)
	m, err := readMap(r, man.Map.Regions, man.DiskSize)
	if err == nil {
		if _, err = r.ReadByte(); err == nil {
			err = errors.New("more than that")
		} else if err == io.EOF {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("image: chunk map: not the %d bytes of %d regions: %v: %w", want, man.Map.Regions, err, ErrFormat)
	}
	if got := ID(sum.Sum(nil)); got != man.Map.Digest {
		return nil, fmt.Errorf("image: chunk map hashes to %s, the manifest says %s: %w", got.Short(), man.Map.Digest.Short(), ErrFormat)
	}
	return m, nil
}
