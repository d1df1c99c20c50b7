package usedmap

import (
	"bytes"
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
		{content: raid, magic: mdMagic, uuid: 16, label: 32, labelLen: 32},
		{content: raid, at: 4096, magic: mdMagic, uuid: 16, label: 32, labelLen: 32},
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

const (
	raid     = "linux_raid_member"
	notKnown = "used blocks of %s are not known to this program"
)

// mdMagic begins an MD superblock, little-endian (Linux,
// include/uapi/linux/raid/md_p.h).
const mdMagic = "\xfc\x4e\x2b\xa9"

// endSignatures are relative to the end of size bytes, where they stand behind
// what looks like content of its own, half a mirror above all: MD's versions 1.0
// and 0.90, DRBD's internal metadata (LINBIT, DRBD 8.4 and 9, drbd_md.h: their
// last 4 KiB begin with 60 bytes of other fields), Intel's RAID and SNIA's DDF.
func endSignatures(size int64) []signature {
	sectors := size / 512
	drbd := size&^4095 - 4096 + 60
	return []signature{
		{content: raid, at: (sectors - 16) &^ 7 * 512, magic: mdMagic + "\x01\x00\x00\x00"},
		{content: raid, at: size&^0xffff - 0x10000, magic: mdMagic + "\x00\x00\x00\x00"},
		{content: "drbd", at: drbd, magic: "\x83\x74\x02\x6b"},
		{content: "drbd", at: drbd, magic: "\x83\x74\x02\x6c"}, // not cleanly shut down
		{content: "drbd", at: drbd, magic: "\x83\x74\x02\x6d"},
		{content: "isw_raid_member", at: (sectors - 2) * 512, magic: "Intel Raid ISM Cfg Sig."},
		{content: "ddf_raid_member", at: (sectors - 1) * 512, magic: "\xde\x11\xde\x11"},
	}
}

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
		return res.TakeWhole(notKnown, s.content), nil
	}
	for _, s := range endSignatures(size) {
		if found, err := s.isIn(r, size); err != nil {
			return nil, err
		} else if found {
			return (&Result{Content: s.content}).TakeWhole(notKnown, s.content), nil
		}
	}
	return nil, nil
}

// isIn reports whether a signature is in r, size bytes long.
func (s signature) isIn(r io.ReaderAt, size int64) (bool, error) {
	b := make([]byte, len(s.magic))
	if s.at < 0 || s.at+int64(len(b)) > size {
		return false, nil
	}
	err := probe.Read(r, b, s.at)
	return err == nil && string(b) == s.magic, err
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
