package main

import "encoding/binary"

// brokenFilesystems are disks without a table, each a filesystem whose
// superblock or metadata lie.
func brokenFilesystems() []breakage {
	const (
		ext, btrfs, f2fs = 1024, 64 << 10, 1024
		exfatSum         = 11 * 512
	)
	row := func(base, name string, edit func([]byte) []byte, whole string) breakage {
		return breakage{name: name, base: base, edit: edit, whole: whole}
	}
	refused := func(base, name string, edit func([]byte) []byte, why string) breakage {
		return breakage{name: name, base: base, edit: edit, refused: why}
	}
	return []breakage{
		row("ext4", "giant block count", poke(ext+4, 4, 1<<32-1), "4294967295 blocks"),
		row("ext4", "giant blocks", poke(ext+0x18, 4, 60), "blocks of 2^60"),
		row("ext4", "groups of nothing", poke(ext+0x20, 4, 0), "groups of 0 blocks"),
		row("ext4", "no inodes", poke(ext+0x28, 4, 0), "0 inodes"),
		row("ext4", "giant inodes", poke(ext+0x58, 2, 0xffff), "inodes of"),
		row("ext4", "unknown feature", poke(ext+0x60, 4, 1<<30|0x2c2), "incompat"),
		row("ext4", "descriptors flipped", flip(2048, 2048+64), "group 0"),
		row("ext4", "cut", cut(9<<20), "blocks of 1024 bytes, the partition"),
		refused("ext4", "journal to replay", poke(ext+0x60, 4, 0x2c2|4), "journal needs recovery"),
		refused("ext4", "mounted", poke(ext+0x3a, 2, 0), "not unmounted cleanly"),

		row("xfs", "no block size", pokeBE(4, 4, 0), ""),
		row("xfs", "giant blocks", pokeBE(4, 4, 1<<31), ""),
		row("xfs", "giant group count", pokeBE(88, 4, 1<<32-1), ""),
		row("xfs", "giant volume", pokeBE(8, 8, 1<<60), ""),
		row("xfs", "free space elsewhere", pokeBE(512+16, 4, 1<<30), ""),
		row("xfs", "btree of 255 levels", pokeBE(512+28, 4, 255), ""),
		row("xfs", "root of itself", xfsLoop, ""),
		row("xfs", "cut", cut(9<<20), ""),

		row("btrfs", "checksum", flip(btrfs+0x100), "checksum"),
		row("btrfs", "place", flip(btrfs+0x30), ""),
		row("btrfs", "nodes flipped", flipEvery(4096), ""),
		row("btrfs", "cut", cut(90<<20), ""),

		row("ntfs", "no cluster size", poke(13, 1, 0), "clusters of 0 sectors"),
		row("ntfs", "MFT far away", poke(48, 8, 1<<62), "its MFT in cluster"),
		row("ntfs", "giant records", poke(64, 1, 0x80), "records of"),
		row("ntfs", "giant volume", poke(40, 8, 1<<62), "sectors of 512 bytes"),
		row("ntfs", "records flipped", flip(4*4096+20, 4*4096+1024+24, 4*4096+6*1024+56), ""),
		row("ntfs", "cut", cut(2<<20), ""),

		row("fat", "no clusters", poke(13, 1, 0), ""),
		row("fat", "no tables", poke(16, 1, 0), ""),
		row("fat", "giant table", poke(36, 4, 1<<32-1), "data begins at"),
		row("fat", "giant volume", poke(32, 4, 1<<32-1), ""),
		row("fat", "tables differ", flip(32*512+70000), "disagree"),
		row("fat", "cut", cut(20<<20), ""),

		row("exfat", "checksum", flip(exfatSum), ""),
		row("exfat", "giant sectors", poke(108, 1, 200), ""),
		row("exfat", "giant clusters", poke(92, 4, 1<<32-1), ""),
		row("exfat", "root elsewhere", poke(96, 4, 1<<30), ""),
		row("exfat", "cut", cut(5<<20), ""),

		row("f2fs", "blocks of 2^40", poke(f2fs+16, 4, 40), ""),
		row("f2fs", "giant segment count", poke(f2fs+48, 4, 1<<32-1), ""),
		row("f2fs", "checkpoint elsewhere", all(poke(f2fs+76, 4, 1<<31), poke(4096+f2fs+76, 4, 1<<31)), ""),
		row("f2fs", "checkpoints flipped", flip(512*4096+100, 1024*4096+100), ""),
		row("f2fs", "cut", cut(40<<20), ""),

		row("swap", "giant", poke(1024+4, 4, 1<<32-1), ""),
		row("swap", "cut", cut(8192), ""),

		row("lvm", "label flipped", flip(512+40), "label's checksum"),
		row("lvm", "two labels", func(b []byte) []byte { copy(b[1024:1536], b[512:1024]); return b }, ""),
		row("lvm", "metadata area flipped", flip(4096+40), "checksum"),
		row("lvm", "cut", cut(20<<10), ""),
	}
}

// xfsLoop makes the block that the tree of free space begins with an inner node
// that leads to itself, and the tree as high as it may be.
func xfsLoop(b []byte) []byte {
	be := binary.BigEndian
	block := be.Uint32(b[4:])
	root := int(be.Uint32(b[512+16:]) * block)
	be.PutUint32(b[512+28:], 5)
	be.PutUint16(b[root+4:], 4)
	be.PutUint16(b[root+6:], 1)
	be.PutUint32(b[root+16:], 1)
	be.PutUint32(b[root+int(block)/2:], be.Uint32(b[512+16:]))
	return b
}

// flipEvery flips a bit in every so many bytes behind the first MiB.
func flipEvery(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		for i := 1<<20 + 30; i < len(b); i += n {
			b[i] ^= 1
		}
		return b
	}
}
