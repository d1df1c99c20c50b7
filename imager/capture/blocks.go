package capture

import (
	"cmp"
	"slices"

	"huck/imager/image"
)

// blocks collects used blocks, rounded outward from bytes.
type blocks struct{ spans []span }

// span is the blocks from first to end, end not included.
type span struct{ first, end int64 }

// add adds the blocks that n bytes at off touch.
func (b *blocks) add(off, n int64) {
	if n <= 0 {
		return
	}
	s := span{off / image.BlockSize, (off + n + image.BlockSize - 1) / image.BlockSize}
	if last := len(b.spans) - 1; last >= 0 && s.first >= b.spans[last].first && s.first <= b.spans[last].end {
		b.spans[last].end = max(b.spans[last].end, s.end)
		return
	}
	b.spans = append(b.spans, s)
}

func (b *blocks) addAll(o blocks) { b.spans = append(b.spans, o.spans...) }

// merge sorts the spans and joins those that overlap or touch.
func (b *blocks) merge() {
	slices.SortFunc(b.spans, func(x, y span) int { return cmp.Compare(x.first, y.first) })
	out := b.spans[:0]
	for _, s := range b.spans {
		if n := len(out); n > 0 && s.first <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, s.end)
			continue
		}
		out = append(out, s)
	}
	b.spans = out
}

// bytes returns the size of the blocks on a disk of diskSize bytes, whose last
// block may be short.
func (b *blocks) bytes(diskSize int64) (sum int64) {
	b.merge()
	for _, s := range b.spans {
		sum += min(s.end*image.BlockSize, diskSize) - s.first*image.BlockSize
	}
	return sum
}

// entries returns the chunk map of the blocks, without IDs.
func (b *blocks) entries(diskSize int64) []image.Entry {
	b.merge()
	end := (diskSize + image.BlockSize - 1) / image.BlockSize
	var entries []image.Entry
	for _, s := range b.spans {
		for at := s.first; at < min(s.end, end); {
			region := at / image.RegionBlocks
			from := at % image.RegionBlocks
			to := min(s.end-region*image.RegionBlocks, image.RegionBlocks)
			if n := len(entries); n == 0 || entries[n-1].Region != uint64(region) {
				entries = append(entries, image.Entry{Region: uint64(region)})
			}
			// The bits from to to: 1<<64 is 0, and 0-1 all ones, as wanted.
			entries[len(entries)-1].Used |= (uint64(1)<<to - 1) &^ (uint64(1)<<from - 1)
			at = region*image.RegionBlocks + to
		}
	}
	return entries
}
