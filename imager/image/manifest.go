package image

import (
	"encoding/json"
	"fmt"
	"io"
)

// ManifestVersion is the format version this package writes and reads.
const ManifestVersion = 1

const (
	maxManifest   = 1 << 20
	maxPartitions = 4096
)

// Manifest describes a disk and names its chunk map by digest. The image
// digest is the BLAKE3 hash of the manifest's bytes, so it holds nothing that
// two captures of the same disk would not share: no name, version or time.
type Manifest struct {
	// Format is ManifestVersion.
	Format int `json:"format"`
	// DiskSize is the captured disk's size in bytes.
	DiskSize int64 `json:"disk_size"`
	// SectorSize is its logical sector size in bytes: 512 or 4096.
	SectorSize int `json:"sector_size"`
	// Table is "gpt", "mbr" or "none" (no partition table).
	Table string `json:"table"`
	// GPT holds what fitting the image to another disk changes. Nil unless
	// Table is "gpt".
	GPT *GPT `json:"gpt,omitempty"`
	// Partitions by start; a whole-disk filesystem is partition 0.
	Partitions []Partition `json:"partitions,omitempty"`
	// Bad lists the stretches of the disk that could not be read and stand as
	// zeros in the image.
	Bad []Extent `json:"bad,omitempty"`
	// Map names the chunk map.
	Map MapInfo `json:"map"`
}

// GPT is the part of a GPT that depends on the disk's size, in sectors
// (UEFI 2.10, 5.2.3 and 5.3.2).
type GPT struct {
	AlternateLBA  uint64 `json:"alternate_lba"`
	LastUsableLBA uint64 `json:"last_usable_lba"`
	// ProtectiveSize is the length of the protective MBR's one partition. It is
	// 0 where fitting leaves the MBR alone, because it is a hybrid one.
	ProtectiveSize uint32 `json:"protective_size,omitempty"`
}

// Partition is one partition as found at capture.
type Partition struct {
	// Number is the partition's number in the table; 0 is the whole disk.
	Number int `json:"number"`
	// Start and Size are in bytes.
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	// Type is the GPT type GUID or the two hexadecimal digits of the MBR type.
	Type string `json:"type,omitempty"`
	// UUID and Name are the GPT partition's own.
	UUID string `json:"uuid,omitempty"`
	Name string `json:"name,omitempty"`
	// Content is what was found inside ("ext4", "vfat", "swap", …) or
	// "unknown".
	Content string `json:"content"`
	// FSUUID and FSLabel are the filesystem's own.
	FSUUID  string `json:"fs_uuid,omitempty"`
	FSLabel string `json:"fs_label,omitempty"`
	// MaxSector is the largest logical sector, in bytes, of a device that the
	// content can be used on; 0 is not known.
	MaxSector int `json:"max_sector,omitempty"`
	// UsedBytes is how much of it the image holds, in whole blocks.
	UsedBytes int64 `json:"used_bytes"`
	// Whole says why every block was taken; empty if only used ones were.
	Whole string `json:"whole,omitempty"`
}

// Extent is a stretch of the disk, in bytes.
type Extent struct {
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
}

// MapInfo names a chunk map and sums it up.
type MapInfo struct {
	Digest ID `json:"digest"`
	// Regions and Chunks are the map's entries and its distinct chunk IDs.
	Regions int `json:"regions"`
	Chunks  int `json:"chunks"`
	// UsedBytes is the sum of the regions' used bytes.
	UsedBytes int64 `json:"used_bytes"`
}

// Marshal returns the manifest's bytes and the image digest they hash to.
func (m *Manifest) Marshal() ([]byte, ID, error) {
	if err := m.check(); err != nil {
		return nil, ID{}, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, ID{}, fmt.Errorf("image: manifest: %v", err)
	}
	if len(b) > maxManifest {
		return nil, ID{}, fmt.Errorf("image: manifest of %d bytes, at most %d: %w", len(b), maxManifest, ErrFormat)
	}
	return b, Sum(b), nil
}

// ParseManifest reads a manifest's bytes. Fields it does not know are ignored:
// a change that older readers must not ignore raises the format version.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("image: manifest of %d bytes, at most %d: %w", len(b), maxManifest, ErrFormat)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("image: manifest: %v: %w", err, ErrFormat)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manifest) check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("image: manifest: "+format+": %w", append(a, ErrFormat)...)
	}
	switch {
	case m.Format != ManifestVersion:
		return bad("format version %d, this program knows %d", m.Format, ManifestVersion)
	case m.DiskSize <= 0 || m.DiskSize > MaxDiskSize:
		return bad("disk size %d", m.DiskSize)
	case m.SectorSize != 512 && m.SectorSize != 4096:
		return bad("sector size %d", m.SectorSize)
	case m.DiskSize%int64(m.SectorSize) != 0:
		return bad("disk size %d is no multiple of the sector size %d", m.DiskSize, m.SectorSize)
	case m.Table != "gpt" && m.Table != "mbr" && m.Table != "none":
		return bad("partition table %q", m.Table)
	case (m.Table == "gpt") != (m.GPT != nil):
		return bad("partition table %q and GPT fields do not go together", m.Table)
	case len(m.Partitions) > maxPartitions:
		return bad("%d partitions", len(m.Partitions))
	case m.Map.Regions < 0 || m.Map.Regions > MaxEntries || m.Map.Chunks < 0 || m.Map.Chunks > m.Map.Regions:
		return bad("%d regions, %d chunks", m.Map.Regions, m.Map.Chunks)
	}
	if g := m.GPT; g != nil {
		if n := uint64(m.DiskSize) / uint64(m.SectorSize); g.AlternateLBA >= n || g.LastUsableLBA >= g.AlternateLBA {
			return bad("GPT of %d sectors: alternate header %d, last usable %d", n, g.AlternateLBA, g.LastUsableLBA)
		}
	}
	for _, p := range m.Partitions {
		if p.Start < 0 || p.Size < 0 || p.Start > m.DiskSize || p.Size > m.DiskSize-p.Start {
			return bad("partition %d at %d+%d on a disk of %d", p.Number, p.Start, p.Size, m.DiskSize)
		}
	}
	for _, e := range m.Bad {
		if e.Start < 0 || e.Size < 0 || e.Start > m.DiskSize || e.Size > m.DiskSize-e.Start {
			return bad("bad extent %d+%d on a disk of %d", e.Start, e.Size, m.DiskSize)
		}
	}
	return nil
}

// Image is an opened image: everything about it but its chunks.
type Image struct {
	Digest   ID
	Manifest *Manifest
	Layout   *Layout
}

// Open opens the image that digest promises from its manifest's bytes and its
// compressed chunk map, and verifies both.
func Open(digest ID, manifest []byte, compressedMap io.Reader) (*Image, error) {
	man, err := openManifest(digest, manifest)
	if err != nil {
		return nil, err
	}
	m, err := OpenMap(compressedMap, man)
	if err != nil {
		return nil, err
	}
	return assemble(digest, man, m)
}

// openManifest parses the manifest that digest promises.
func openManifest(digest ID, manifest []byte) (*Manifest, error) {
	if got := Sum(manifest); got != digest {
		return nil, fmt.Errorf("image: manifest hashes to %s, want %s: %w", got.Short(), digest.Short(), ErrFormat)
	}
	return ParseManifest(manifest)
}

// assemble makes an image of a manifest and a map, which it checks against it.
func assemble(digest ID, man *Manifest, m *Map) (*Image, error) {
	l, err := NewLayout(m, man.DiskSize)
	if err != nil {
		return nil, err
	}
	if l.Chunks() != man.Map.Chunks || l.UsedBytes() != man.Map.UsedBytes {
		return nil, fmt.Errorf("image: chunk map has %d chunks and %d used bytes, the manifest says %d and %d: %w",
			l.Chunks(), l.UsedBytes(), man.Map.Chunks, man.Map.UsedBytes, ErrFormat)
	}
	return &Image{digest, man, l}, nil
}
