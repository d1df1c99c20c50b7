package main

import "encoding/binary"

// brokenTables are disks with damaged partition tables.
func brokenTables() []breakage {
	le := binary.LittleEndian
	gpt := func(name string, edit func([]byte) []byte) breakage {
		return breakage{name: name, base: "gpt", edit: edit}
	}
	mbr := func(name string, edit func([]byte) []byte) breakage {
		return breakage{name: name, base: "mbr", edit: edit}
	}
	refused := func(c breakage, why string) breakage { c.refused = why; return c }
	warns := func(c breakage, what string) breakage { c.warns = what; return c }
	whole := func(c breakage, why string) breakage { c.whole = why; return c }
	const size = 24 << 20
	return []breakage{
		warns(gpt("primary header flipped", flip(512+56)), "the primary GPT is damaged"),
		warns(gpt("primary entries flipped", flip(1024+33)), "the primary GPT is damaged"),
		warns(gpt("backup header flipped", flip(size-512+40)), "the backup GPT is damaged"),
		warns(gpt("backup entries flipped", flip(size-33*512+5)), "the backup GPT is damaged"),
		refused(gpt("both headers flipped", flip(512+56, size-512+56)), "neither the primary nor the backup GPT is sound"),
		refused(gpt("both entries flipped", flip(1024+33, size-33*512+5)), "neither the primary nor the backup GPT is sound"),
		refused(gpt("giant entry count", inGPT(func(h []byte) { le.PutUint32(h[80:], 1<<31) })), "2147483648 entries"),
		refused(gpt("giant entries", inGPT(func(h []byte) { le.PutUint32(h[84:], 1<<30) })), "entries of 1073741824 bytes"),
		refused(gpt("no entries", inGPT(func(h []byte) { le.PutUint32(h[80:], 0) })), "0 entries"),
		refused(gpt("usable backwards", inGPT(func(h []byte) { le.PutUint64(h[40:], 1<<40) })), "usable from sector"),
		refused(gpt("entries far away", inGPT(func(h []byte) { le.PutUint64(h[72:], 1<<62) })), "entries in 4611686018427387904"),
		refused(gpt("header of 4 GiB", inGPT(func(h []byte) { le.PutUint32(h[12:], 1<<32-1) })), "4294967295 bytes long"),
		refused(gpt("headers elsewhere", inGPT(func(h []byte) { le.PutUint64(h[24:], 77) })), "says it is in sector 77"),
		refused(gpt("usable into the backup", inGPT(func(h []byte) { le.PutUint64(h[48:], size/512-2) })), "partitions reach"),
		refused(gpt("partition past the end", inEntries(func(e []byte) { le.PutUint64(e[128+40:], 1<<20) })), "overlaps the backup GPT"),
		warns(gpt("partition backwards", inEntries(func(e []byte) { le.PutUint64(e[128+32:], 1<<40) })), "makes no sense; left out"),
		warns(gpt("partitions overlap", inEntries(func(e []byte) { le.PutUint64(e[128+32:], 4096) })), "overlap"),
		refused(gpt("partition over the backup", inEntries(func(e []byte) { le.PutUint64(e[128+40:], size/512-1) })), "overlaps the backup GPT"),
		warns(gpt("partition over the table", inEntries(func(e []byte) { le.PutUint64(e[128+32:], 1) })), "overlap"),
		whole(warns(gpt("no protective MBR", func(b []byte) []byte { clear(b[:512]); return b }), "without a protective MBR"), "unknown"),
		refused(gpt("cut in half", cut(size/2)), "neither the primary nor the backup GPT is sound"),
		refused(gpt("cut to 20 sectors", cut(20*512)), "GPT"),
		warns(gpt("data between partitions' end and backup", func(b []byte) []byte {
			copy(b[22<<20:size-33*512], noise(2<<20-33*512))
			return b
		}), ""),
		warns(gpt("data behind the last usable sector", all(inGPT(func(h []byte) { le.PutUint64(h[48:], 21<<11-1) }), func(b []byte) []byte {
			copy(b[21<<20:size-33*512], noise(3<<20-33*512))
			return b
		})), ""),
		refused(mbr("logical partitions in a circle", link(1, 0)), "comes back to sector"),
		warns(mbr("chain past the end", link(0, 1<<31)), "past the disk's end"),
		warns(mbr("chain into nothing", link(0, 3*2048)), "no EBR in sector"),
		refused(mbr("300 links", longChain), "more than 256 links"),
		warns(mbr("logical past the end", inEBR(1, 12, 1<<31)), "past the disk's end"),
		warns(mbr("logical over its EBR", inEBR(1, 8, 0)), "overlap"),
		warns(mbr("giant primary", poke(446+12, 4, 1<<32-1)), "past the disk's end"),
		warns(mbr("primary over the extended one", poke(446+12, 4, 20*2048)), "overlap"),
		warns(mbr("extended past the end", poke(446+16+8, 4, 1<<30)), "past the disk's end"),
		whole(mbr("primary at sector 0", poke(446+8, 4, 0)), "unknown"),
		whole(mbr("no signature", poke(510, 2, 0)), "unknown"),
		warns(mbr("cut in half", cut(size/2)), "cut"),
		warns(mbr("cut to a sector", cut(512)), "past the disk's end"),
	}
}

// ebrAt is where EBR number i of the disk "mbr" stands, and where its extended
// partition begins, in sectors.
func ebrAt(b []byte, i int) (ebr, start uint32) {
	le := binary.LittleEndian
	start = le.Uint32(b[446+16+8:])
	ebr = start
	for range i {
		ebr = start + le.Uint32(b[int(ebr)*512+446+16+8:])
	}
	return ebr, start
}

// inEBR pokes the first record of EBR i.
func inEBR(i, at int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte {
		ebr, _ := ebrAt(b, i)
		binary.LittleEndian.PutUint32(b[int(ebr)*512+446+at:], v)
		return b
	}
}

// link makes EBR i lead to the sector that is so far into the extended
// partition.
func link(i int, to uint32) func([]byte) []byte {
	return func(b []byte) []byte {
		ebr, _ := ebrAt(b, i)
		r := b[int(ebr)*512+446+16:]
		r[4] = 5
		binary.LittleEndian.PutUint32(r[8:], to)
		binary.LittleEndian.PutUint32(r[12:], 100)
		return b
	}
}

// longChain makes 300 EBRs one behind the other, each with a partition of a
// sector.
func longChain(b []byte) []byte {
	le := binary.LittleEndian
	_, start := ebrAt(b, 0)
	for i := range uint32(300) {
		ebr := b[int(start+2*i)*512:][:512]
		clear(ebr)
		ebr[446+4], ebr[446+16+4], ebr[510], ebr[511] = 0x83, 5, 0x55, 0xaa
		le.PutUint32(ebr[446+8:], 1)
		le.PutUint32(ebr[446+12:], 1)
		le.PutUint32(ebr[446+16+8:], 2*i+2)
		le.PutUint32(ebr[446+16+12:], 2)
	}
	return b
}
