package ntfs

import (
	"bytes"
	"encoding/binary"

	"huck/imager/usedmap/internal/probe"
)

const (
	// restartPages is how much of $LogFile can hold the two restart pages: the
	// second stands one page behind the first.
	restartPages = 128 << 10
	noClient     = 0xffff
	volumeClean  = 0x2
)

// logClean tells whether the journal is closed: a volume that is mounted by
// Windows, was hibernated with it or lost its power has an open one, though it
// is not marked dirty (Linux, fs/ntfs3/fslog.c).
func (v *volume) logClean() (bool, error) {
	f, err := v.data(fileLog)
	if err != nil {
		return false, err
	}
	if f.resident != nil {
		return false, contradict("its journal has no clusters")
	}
	b := make([]byte, min(f.size, restartPages))
	if err := probe.Read(f, b, 0); err != nil {
		return false, err
	}
	if len(b) >= 4 && bytes.Equal(b[:4], []byte{0xff, 0xff, 0xff, 0xff}) {
		return true, nil // emptied, which is only done to one that is closed
	}
	var newest uint64
	clean, found := false, false
	for at := 0; at+fixupEvery <= len(b); at = max(2*at, 4096) {
		if lsn, c, ok := restart(b[at:]); ok && (!found || lsn > newest) {
			newest, clean, found = lsn, c, true
		}
	}
	if !found {
		return false, contradict("its journal has no restart page")
	}
	return clean, nil
}

// restart reads the restart page that b begins with: how new it is and whether
// it says that the journal is closed.
func restart(b []byte) (lsn uint64, clean, ok bool) {
	le := binary.LittleEndian
	if m := string(b[:4]); m != "RSTR" && m != "CHKD" {
		return 0, false, false
	}
	size, at := int64(le.Uint32(b[16:])), int64(le.Uint16(b[24:]))
	if size < 4096 || size > min(64<<10, int64(len(b))) || size%fixupEvery != 0 || at+16 > fixupEvery-2 {
		return 0, false, false
	}
	page := bytes.Clone(b[:size])
	if !unfix(page) {
		return 0, false, false
	}
	area := page[at:]
	return le.Uint64(area), le.Uint16(area[12:]) == noClient || le.Uint16(area[14:])&volumeClean != 0, true
}
