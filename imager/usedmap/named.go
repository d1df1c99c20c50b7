package usedmap

import (
	"bytes"
	"encoding/binary"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// signature tells a kind of content that is known by name only.
type signature struct {
	content string
	at      int64
	magic   string
	// uuid and label, if not 0, are offsets relative to at; labelLen is the
	// label's length.
	uuid, label int64
	labelLen    int
}

// signatures are from the kernel's and util-linux's descriptions of each.
func signatures() []signature {
	return []signature{
		{content: "BitLocker", at: 3, magic: "-FVE-FS-"},
		{content: luks, magic: "LUKS\xba\xbe"},
		{content: "linux_raid_member", magic: mdMagic, uuid: 16, label: 32, labelLen: 32},
		{content: "linux_raid_member", at: 4096, magic: mdMagic, uuid: 16, label: 32, labelLen: 32},
		{content: "iso9660", at: 0x8001, magic: "CD001", label: 39, labelLen: 32},
		{content: "squashfs", magic: "hsqs"},
		{content: "erofs", at: 1024, magic: "\xe2\xe1\xf5\xe0", uuid: 48, label: 64, labelLen: 16},
		{content: "bcache", at: 4096 + 24, magic: "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", uuid: 16},
		{content: "jfs", at: 0x8000, magic: "JFS1", uuid: 136, label: 152, labelLen: 16},
		{content: "bcachefs", at: 4096 + 24, magic: "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
		{content: "reiserfs", at: 0x10034, magic: "ReIsEr"},
		{content: "gfs2", at: 0x10000, magic: "\x01\x16\x19\x70\x00\x00\x00\x01"},
		{content: "ocfs2", at: 0x2000, magic: "OCFSV2"},
		// These leave the blocks before their superblock alone.
		{content: "ufs", at: 0x2000 + 1372, magic: "\x54\x19\x01\x00"},
		{content: "ufs", at: 0x10000 + 1372, magic: "\x19\x01\x54\x19"},
	}
}

// LUKS1 and LUKS2 have their UUID in one place, in letters.
const (
	luks        = "crypto_LUKS"
	luksUUIDAt  = 168
	luksUUIDLen = 40
)

// mdMagic begins an MD superblock, little-endian (Linux,
// include/uapi/linux/raid/md_p.h).
const mdMagic = "\xfc\x4e\x2b\xa9"

// named recognises content that is always taken whole.
func named(r io.ReaderAt, size int64) (*Result, error) {
	head := make([]byte, min(size, identifyBytes))
	if err := probe.Read(r, head, 0); err != nil {
		return nil, err
	}
	for _, s := range signatures() {
		if !at(head, s.at, s.magic) {
			continue
		}
		id := s.identity(head)
		res := &Result{Content: id.Content, UUID: id.UUID, Label: id.Label}
		if s.content == luks {
			return res.TakeWhole("what crypto_LUKS encrypts cannot be told from what is free"), nil
		}
		return res.TakeWhole("used blocks of %s are not known to this program", s.content), nil
	}
	return mdAtEnd(r, size)
}

// mdAtEnd finds the MD superblocks that stand at a device's end, so that a
// mirror's half looks like the filesystem on it: versions 1.0 and 0.90.
func mdAtEnd(r io.ReaderAt, size int64) (*Result, error) {
	sectors := size / 512
	for _, p := range []struct {
		at    int64
		major uint32
	}{{(sectors - 16) &^ 7 * 512, 1}, {size&^0xffff - 0x10000, 0}} {
		if p.at < 0 || size < 0x20000 {
			continue
		}
		b := make([]byte, 64)
		if err := probe.Read(r, b, p.at); err != nil {
			return nil, err
		}
		if at(b, 0, mdMagic) && binary.LittleEndian.Uint32(b[4:]) == p.major {
			res := &Result{Content: "linux_raid_member"}
			return res.TakeWhole("used blocks of a RAID member are not known to this program"), nil
		}
	}
	return drbdAtEnd(r, size)
}

// drbdAtEnd finds DRBD's internal metadata, behind what looks like the
// filesystem on it: without them there is no telling which copy is the newer.
// Their last 4 KiB begin with 60 bytes of other fields (LINBIT, DRBD 8.4 and 9,
// drbd_md.h), integers being big-endian.
func drbdAtEnd(r io.ReaderAt, size int64) (*Result, error) {
	const block, magicAt, v8, v8unclean, v9 = 4096, 60, 0x8374026b, 0x8374026c, 0x8374026d
	if size < 2*block {
		return nil, nil
	}
	b := make([]byte, magicAt+4)
	if err := probe.Read(r, b, size&^(block-1)-block); err != nil {
		return nil, err
	}
	switch binary.BigEndian.Uint32(b[magicAt:]) {
	case v8, v8unclean, v9:
		res := &Result{Content: "drbd"}
		return res.TakeWhole("used blocks of a DRBD member are not known to this program"), nil
	}
	return nil, nil
}

func at(b []byte, off int64, magic string) bool {
	return bytes.HasPrefix(b[min(off, int64(len(b))):], []byte(magic))
}

// field returns n bytes at off, zeros where b is too short.
func field(b []byte, off int64, n int) []byte {
	f := make([]byte, n)
	copy(f, b[min(off, int64(len(b))):])
	return f
}

// text returns a padded name without its padding.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(bytes.TrimRight(b, " "))
}
