package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/zeebo/blake3"

	"huck/imager/image"
)

// A pack is one file of many encoded chunks that says itself what is in it
// (FORMAT.md, Pack).
const (
	packMagic   = "HUCKPAK\x01" // seven letters and the format version
	packEnd     = "HUCKEND\x01"
	packHeader  = 16
	packEntry   = 48
	packTrailer = 48

	// packTarget is the number of bytes of chunks after which a pack is
	// closed: large enough that a disk's seeks and fsyncs, or an object
	// store's requests, do not count, small enough to rewrite.
	packTarget = 64 << 20
	// packChunks closes a pack of many tiny chunks before its table outgrows
	// what the chunks themselves need.
	packChunks = 1 << 16
	// maxPackChunks and maxPack bound what a reader believes.
	maxPackChunks = 1 << 20
	maxPack       = 1 << 30
)

// errPack is wrapped by errors about files that are no sound packs, as
// opposed to files that cannot be read.
var errPack = errors.New("not a sound pack")

// entry is one line of a pack's table.
type entry struct {
	id      image.ID
	offset  uint32 // of the encoded chunk in the pack, in bytes
	encoded uint32 // its length in bytes
	size    uint32 // its length decoded
}

func appendPackHeader(b []byte) []byte {
	b = append(b, packMagic...)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0)
}

// appendTable appends the table of entries and the trailer, and returns the
// hash of the table, which is the pack's name.
func appendTable(b []byte, entries []entry) ([]byte, image.ID) {
	start := len(b)
	for i := range entries {
		e := &entries[i]
		b = append(b, e.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.offset))
		b = binary.LittleEndian.AppendUint32(b, e.encoded)
		b = binary.LittleEndian.AppendUint32(b, e.size)
	}
	name := image.Sum(b[start:])
	b = append(b, name[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(entries)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	return append(b, packEnd...), name
}

// readTable reads the table of a pack of fileSize bytes and verifies it. It
// does not look at the chunks.
func readTable(r io.ReaderAt, fileSize int64) ([]entry, image.ID, error) {
	if fileSize < packHeader+packTrailer || fileSize > maxPack {
		return nil, image.ID{}, fmt.Errorf("%d bytes long: %w", fileSize, errPack)
	}
	var head [packHeader]byte
	if err := readFull(r, head[:], 0); err != nil {
		return nil, image.ID{}, err
	}
	if string(head[:8]) != packMagic {
		return nil, image.ID{}, fmt.Errorf("no magic of version 1: %w", errPack)
	}
	if f := binary.LittleEndian.Uint32(head[8:]); f != 0 {
		return nil, image.ID{}, fmt.Errorf("unknown required features %#x: %w", f, errPack)
	}
	var tail [packTrailer]byte
	if err := readFull(r, tail[:], fileSize-packTrailer); err != nil {
		return nil, image.ID{}, err
	}
	n := int64(binary.LittleEndian.Uint32(tail[32:]))
	if string(tail[40:]) != packEnd || n > maxPackChunks || n*packEntry > fileSize-packHeader-packTrailer {
		return nil, image.ID{}, fmt.Errorf("no trailer of version 1: %w", errPack)
	}
	end := fileSize - packTrailer - n*packEntry
	entries, name, err := readEntries(io.NewSectionReader(r, end, n*packEntry), int(n))
	if err != nil {
		return nil, image.ID{}, err
	}
	if want := image.ID(tail[:32]); name != want {
		return nil, image.ID{}, fmt.Errorf("table hashes to %s, trailer says %s: %w", name.Short(), want.Short(), errPack)
	}
	return entries, name, checkEntries(entries, end)
}

// readEntries reads a table of n entries, unchecked, and returns its hash, too.
// It goes through little memory: many tables are read at once.
func readEntries(r io.Reader, n int) ([]entry, image.ID, error) {
	sum := blake3.New()
	buffered := bufio.NewReaderSize(io.TeeReader(r, sum), 32<<10)
	entries := make([]entry, n)
	var b [packEntry]byte
	for i := range entries {
		if _, err := io.ReadFull(buffered, b[:]); err != nil {
			return nil, image.ID{}, fmt.Errorf("read table: %v", err)
		}
		entries[i] = entry{id: image.ID(b[:32]),
			// No pack is so long that the largest number would do for more.
			offset:  uint32(min(binary.LittleEndian.Uint64(b[32:]), math.MaxUint32)),
			encoded: binary.LittleEndian.Uint32(b[40:]), size: binary.LittleEndian.Uint32(b[44:])}
	}
	return entries, image.ID(sum.Sum(nil)), nil
}

// checkEntries checks a table whose chunks end at byte end of the pack.
func checkEntries(entries []entry, end int64) error {
	at := int64(packHeader)
	for i := range entries {
		e := &entries[i]
		offset, encoded := int64(e.offset), int64(e.encoded)
		if e.size > image.RegionSize || e.encoded > e.size || e.encoded == 0 || offset < at || encoded > end-offset {
			return fmt.Errorf("chunk %s: %d bytes encoded as %d at %d: %w", e.id.Short(), e.size, e.encoded, offset, errPack)
		}
		at = offset + encoded
	}
	return nil
}

// readFull fills b from r at off. io.ReaderAt may return io.EOF beside a full
// read.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %v", len(b), off, err)
}
