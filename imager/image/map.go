package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

const (
	mapMagic  = "HUCKMAP\x01" // seven letters and the format version
	mapHeader = 24
	mapEntry  = 48
)

// MaxEntries is how many regions a chunk map may have: 4 TiB of regions with a
// used block, in a map of 805 MB.
const MaxEntries = 1 << 24

// ErrFormat is wrapped by every error about bytes that are not what FORMAT.md
// says.
var ErrFormat = errors.New("bad image format")

// Map is a chunk map: the regions with a used block, by region number.
type Map struct {
	Entries []Entry
}

// AppendBinary appends the map's bytes (FORMAT.md, Chunk map). It refuses a
// map that Parse would refuse.
func (m *Map) AppendBinary(b []byte) ([]byte, error) {
	if err := m.check(MaxDiskSize); err != nil {
		return nil, err
	}
	b = appendMapHeader(b, len(m.Entries))
	for i := range m.Entries {
		b = appendEntry(b, &m.Entries[i])
	}
	return b, nil
}

func appendMapHeader(b []byte, entries int) []byte {
	b = append(b, mapMagic...)
	b = binary.LittleEndian.AppendUint64(b, 0) // features, required and not
	return binary.LittleEndian.AppendUint64(b, uint64(entries))
}

func appendEntry(b []byte, e *Entry) []byte {
	b = binary.LittleEndian.AppendUint64(b, e.Region)
	b = binary.LittleEndian.AppendUint64(b, e.Used)
	return append(b, e.ID[:]...)
}

// ParseMap reads a map's bytes and checks every entry against a disk of
// diskSize bytes.
func ParseMap(b []byte, diskSize int64) (*Map, error) {
	n, err := parseMapHeader(b)
	if err != nil {
		return nil, err
	}
	if len(b)-mapHeader != n*mapEntry {
		return nil, fmt.Errorf("image: chunk map: %d entries in %d bytes: %w", n, len(b), ErrFormat)
	}
	m := &Map{Entries: make([]Entry, n)}
	for i := range m.Entries {
		m.Entries[i] = parseEntry(b[mapHeader+i*mapEntry:])
	}
	if err := m.check(diskSize); err != nil {
		return nil, err
	}
	return m, nil
}

// parseMapHeader returns the number of entries that follow.
func parseMapHeader(b []byte) (int, error) {
	if len(b) < mapHeader || string(b[:8]) != mapMagic {
		return 0, fmt.Errorf("image: chunk map: no magic of version 1: %w", ErrFormat)
	}
	if f := binary.LittleEndian.Uint32(b[8:]); f != 0 {
		return 0, fmt.Errorf("image: chunk map: unknown required features %#x: %w", f, ErrFormat)
	}
	n := binary.LittleEndian.Uint64(b[16:])
	if n > MaxEntries {
		return 0, fmt.Errorf("image: chunk map: %d entries, at most %d: %w", n, MaxEntries, ErrFormat)
	}
	return int(n), nil
}

// parseEntry reads an entry from the first mapEntry bytes of p.
func parseEntry(p []byte) Entry {
	return Entry{Region: binary.LittleEndian.Uint64(p), Used: binary.LittleEndian.Uint64(p[8:]), ID: ID(p[16:48])}
}

// readMap reads the n entries of a map, and nothing behind them.
func readMap(r io.Reader, n int, diskSize int64) (*Map, error) {
	var header [mapHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	if got, err := parseMapHeader(header[:]); err != nil || got != n {
		return nil, errors.Join(err, fmt.Errorf("image: chunk map: %d entries instead of %d: %w", got, n, ErrFormat))
	}
	// More than usual disks have is only believed once it is there.
	m := &Map{Entries: make([]Entry, 0, min(n, 1<<19))}
	var b [mapEntry]byte
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		m.Entries = append(m.Entries, parseEntry(b[:]))
	}
	return m, m.check(diskSize)
}

func (m *Map) check(diskSize int64) error {
	if len(m.Entries) > MaxEntries {
		return fmt.Errorf("image: chunk map: %d entries, at most %d: %w", len(m.Entries), MaxEntries, ErrFormat)
	}
	if diskSize < 0 || diskSize > MaxDiskSize {
		return fmt.Errorf("image: disk size %d outside 0 to %d: %w", diskSize, int64(MaxDiskSize), ErrFormat)
	}
	blocks := uint64(diskSize+BlockSize-1) / BlockSize
	for i, e := range m.Entries {
		switch {
		case i > 0 && e.Region <= m.Entries[i-1].Region:
			return fmt.Errorf("image: chunk map: entry %d: region %d not after %d: %w", i, e.Region, m.Entries[i-1].Region, ErrFormat)
		case e.Used == 0:
			return fmt.Errorf("image: chunk map: entry %d: region %d has no used block: %w", i, e.Region, ErrFormat)
		case e.Region >= MaxDiskSize/RegionSize,
			e.Region*RegionBlocks+uint64(64-bits.LeadingZeros64(e.Used)) > blocks:
			return fmt.Errorf("image: chunk map: entry %d: region %d ends past the disk's %d bytes: %w", i, e.Region, diskSize, ErrFormat)
		}
	}
	return nil
}

// Layout numbers the distinct chunks of a map from 0 in order of first
// appearance and tells for each where it stands. Sender and receiver of a
// channel derive the same numbers from the same map.
type Layout struct {
	diskSize int64
	entries  []Entry
	number   []uint32 // entry index → chunk number
	first    []uint32 // chunk number → first entry index
	next     []uint32 // entry index → next entry of the same chunk, or none
}

const none = ^uint32(0)

// NewLayout numbers the chunks of m, a map of a disk of diskSize bytes. A
// chunk ID that stands for two lengths is refused: one of them is a lie.
func NewLayout(m *Map, diskSize int64) (*Layout, error) {
	n := len(m.Entries)
	l := &Layout{diskSize: diskSize, entries: m.Entries, number: make([]uint32, n), first: make([]uint32, 0, n), next: make([]uint32, n)}
	latest := NewNumbers(n, func(i uint32) *ID { return &m.Entries[i].ID })
	for i := range m.Entries {
		e := &m.Entries[i]
		l.next[i] = none
		prev, seen := latest.Set(uint32(i))
		if !seen {
			l.number[i] = uint32(len(l.first))
			l.first = append(l.first, uint32(i))
			continue
		}
		if a, b := e.Size(diskSize), m.Entries[prev].Size(diskSize); a != b {
			return nil, fmt.Errorf("image: chunk map: chunk %s is %d bytes in region %d and %d in region %d: %w",
				e.ID.Short(), b, m.Entries[prev].Region, a, e.Region, ErrFormat)
		}
		l.number[i] = l.number[prev]
		l.next[prev] = uint32(i)
	}
	return l, nil
}

// Chunks returns how many distinct chunks the map names.
func (l *Layout) Chunks() int { return len(l.first) }

// Entries returns the map's entries; the caller must not change them.
func (l *Layout) Entries() []Entry { return l.entries }

// DiskSize returns the size in bytes of the disk the map describes.
func (l *Layout) DiskSize() int64 { return l.diskSize }

// ID returns the ID of chunk n.
func (l *Layout) ID(n uint32) ID { return l.entries[l.first[n]].ID }

// Size returns the length in bytes of chunk n, decoded.
func (l *Layout) Size(n uint32) int { return l.entries[l.first[n]].Size(l.diskSize) }

// Number returns the number of the chunk that entry i of the map names.
func (l *Layout) Number(i int) uint32 { return l.number[i] }

// Places yields the indexes of the entries where chunk n stands, in disk order.
func (l *Layout) Places(n uint32) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := l.first[n]; i != none; i = l.next[i] {
			if !yield(int(i)) {
				return
			}
		}
	}
}

// UsedBytes returns the sum of all regions' used bytes.
func (l *Layout) UsedBytes() int64 {
	var sum int64
	for i := range l.entries {
		sum += int64(l.entries[i].Size(l.diskSize))
	}
	return sum
}
