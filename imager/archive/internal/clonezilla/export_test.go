package clonezilla

import (
	"context"
	"io"
)

// Restore restores an image of partclone and returns the filesystem's size.
func Restore(ctx context.Context, r io.Reader, to io.WriterAt) (int64, error) {
	p, err := openPartclone(r)
	if err != nil {
		return 0, err
	}
	return p.size, p.restore(ctx, to)
}

// ParseDump returns how many partitions a dump has.
func ParseDump(text, disk string) (int, error) {
	d, err := parseDump(text, disk)
	return len(d.parts), err
}
