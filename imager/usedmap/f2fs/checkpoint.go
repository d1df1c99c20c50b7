package f2fs

import (
	"encoding/binary"
	"io"

	"huck/imager/usedmap/internal/probe"
)

// Flags of a checkpoint.
const (
	flagUnmount     = 0x1
	flagOrphans     = 0x2
	flagCompactSum  = 0x4
	flagError       = 0x8
	flagFsck        = 0x10
	flagCRCRecovery = 0x40
	flagNoCRC       = 0x200
	flagLargeNAT    = 0x400
	flagDisabled    = 0x1000
	flagResize      = 0x4000
)

const (
	bitmapsAt = 192           // where the version bitmaps begin
	lastCRC   = blockSize - 4 // where the checksum usually is

	journalAt    = 7 * 512 // in a summary block, behind an entry for each block of the segment
	journalSize  = 507
	journalEntry = 4 + sitEntry

	// The current segments are one each for hot, warm and cold nodes and data.
	warm     = 1
	cold     = 2
	currents = 3
)

// checkpoint is a checkpoint's first block and those with the bitmaps behind it.
type checkpoint struct {
	b  []byte
	at int64 // its block
}

func (c checkpoint) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(c.b[at:])) }
func (c checkpoint) u32(at int) int64 { return int64(binary.LittleEndian.Uint32(c.b[at:])) }

func (c checkpoint) version() uint64      { return binary.LittleEndian.Uint64(c.b) }
func (c checkpoint) validBlocks() uint64  { return binary.LittleEndian.Uint64(c.b[16:]) }
func (c checkpoint) freeSegs() int64      { return c.u32(32) }
func (c checkpoint) nodeSeg(i int) int64  { return c.u32(36 + 4*i) }
func (c checkpoint) nodeNext(i int) int64 { return c.u16(68 + 2*i) } // next block in that segment
func (c checkpoint) dataSeg(i int) int64  { return c.u32(84 + 4*i) }
func (c checkpoint) dataNext(i int) int64 { return c.u16(116 + 2*i) }
func (c checkpoint) flags() int64         { return c.u32(132) }
func (c checkpoint) blocks() int64        { return c.u32(136) } // of the whole pack
func (c checkpoint) summaries() int64     { return c.u32(140) } // first block of them in the pack
func (c checkpoint) validNodes() int64    { return c.u32(144) }
func (c checkpoint) sitBytes() int64      { return c.u32(156) } // of its version bitmap
func (c checkpoint) natBytes() int64      { return c.u32(160) }
func (c checkpoint) crcAt() int64         { return c.u32(164) }

// unrest tells why the filesystem is not at rest; empty if it is.
func (c checkpoint) unrest() string {
	switch f := c.flags(); {
	case f&(flagError|flagFsck) != 0:
		return "errors are recorded in it: run fsck.f2fs"
	case f&flagResize != 0:
		return "a resize did not finish: run fsck.f2fs"
	case f&flagUnmount == 0 || f&flagDisabled != 0:
		return "it is mounted or was not unmounted cleanly"
	case f&flagOrphans != 0:
		return "deleted files wait to be freed: mount it once or run fsck.f2fs"
	}
	return ""
}

// volume is a filesystem whose superblock makes sense.
type volume struct {
	super
	r io.ReaderAt
}

// block reads n blocks from block at on.
func (v *volume) block(at, n int64) ([]byte, error) {
	b := make([]byte, n*blockSize)
	return b, probe.Read(v.r, b, at*blockSize)
}

// checkpoint returns the newer of the two checkpoints, as mount does.
func (v *volume) checkpoint() (checkpoint, error) {
	var newest checkpoint
	for i := range int64(2) {
		c, err := v.readCheckpoint(v.cp() + i*segBlocks)
		if err != nil {
			return newest, err
		}
		if c.b != nil && (newest.b == nil || int64(c.version()-newest.version()) > 0) {
			newest = c
		}
	}
	if newest.b == nil {
		return newest, contradict("it has no valid checkpoint")
	}
	return newest, nil
}

// readCheckpoint reads the checkpoint in block at. It is empty if it is not
// valid: if its first and its last block do not both have the right checksum
// and the same version.
func (v *volume) readCheckpoint(at int64) (checkpoint, error) {
	none := checkpoint{}
	b, err := v.block(at, 1+v.payload())
	if err != nil {
		return none, err
	}
	c := checkpoint{b, at}
	if !sound(b[:blockSize]) || c.blocks() < 2+v.payload() || c.blocks() > segBlocks {
		return none, nil
	}
	last, err := v.block(at+c.blocks()-1, 1)
	if err != nil {
		return none, err
	}
	if !sound(last) || (checkpoint{b: last}).version() != c.version() {
		return none, nil
	}
	return c, nil
}

// sound tells whether a block of a checkpoint has the right checksum.
func sound(b []byte) bool {
	at := checkpoint{b: b}.crcAt()
	if at < bitmapsAt || at > lastCRC {
		return false
	}
	return checksum(b, at) == binary.LittleEndian.Uint32(b[at:])
}

// checksum returns the checksum of a block of a checkpoint that has it at the
// offset given.
func checksum(b []byte, at int64) uint32 {
	got := crc(superMagic, b[:at])
	if at < lastCRC {
		got = crc(got, b[at+4:])
	}
	return got
}

// sitVersions returns the bitmap that tells which of its two places each SIT
// block is in; nil if there is no room for it.
func (v *volume) sitVersions(c checkpoint) []byte {
	at := int64(bitmapsAt)
	switch {
	case c.flags()&flagLargeNAT != 0:
		at += 4 + c.natBytes() // behind the checksum
	case v.payload() > 0:
		at = blockSize
	}
	n := c.sitBytes()
	if n*8 < v.sitBlocks() || at+n > int64(len(c.b)) {
		return nil
	}
	return c.b[at : at+n]
}

// sitJournal returns the SIT entries that are newer than those in the SIT, by
// segment: they are kept in the summary of the current cold data segment.
func (v *volume) sitJournal(c checkpoint) (map[int64][]byte, error) {
	// A pack ends with the summaries of all current segments, data first, and
	// its last block; or it has the summaries of data compacted.
	at, off := c.blocks()-1-2*currents+cold, journalAt
	if c.flags()&flagCompactSum != 0 {
		at, off = c.summaries(), journalSize
	}
	if at <= v.payload() || at >= c.blocks()-1 {
		return nil, contradict("the summaries of its checkpoint are in block %d of %d", at, c.blocks())
	}
	b, err := v.block(c.at+at, 1)
	if err != nil {
		return nil, err
	}
	j := b[off : off+journalSize]
	n := int(binary.LittleEndian.Uint16(j))
	if n > (journalSize-2)/journalEntry {
		return nil, contradict("%d entries in the journal of its SIT", n)
	}
	entries := map[int64][]byte{}
	for i := range n {
		e := j[2+i*journalEntry:][:journalEntry]
		seg := int64(binary.LittleEndian.Uint32(e))
		if seg >= v.mainSegs() {
			return nil, contradict("the journal of its SIT has segment %d of %d", seg, v.mainSegs())
		}
		if entries[seg] != nil {
			return nil, contradict("the journal of its SIT has segment %d twice", seg)
		}
		entries[seg] = e[4:]
	}
	return entries, nil
}

// nextNode returns the block that takes the next warm node. After a crash it
// and those it leads to are looked through for what was synced since the
// checkpoint.
func (v *volume) nextNode(c checkpoint) int64 {
	return v.main() + c.nodeSeg(warm)*segBlocks + c.nodeNext(warm)
}

// synced tells whether a node was written since the checkpoint.
func (v *volume) synced(c checkpoint) (bool, error) {
	b, err := v.block(v.nextNode(c), 1)
	if err != nil {
		return false, err
	}
	got, want := binary.LittleEndian.Uint64(b[blockSize-12:]), c.version()
	switch {
	case c.flags()&flagNoCRC != 0:
		got, want = got<<32, want<<32
	case c.flags()&flagCRCRecovery != 0:
		want |= uint64(binary.LittleEndian.Uint32(c.b[c.crcAt():])) << 32
	}
	return got == want, nil
}
