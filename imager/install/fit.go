package install

import (
	"bytes"
	"errors"
	"fmt"

	"huck/imager/disk"
	"huck/imager/image"
	"huck/imager/ptable"
)

// fitted reports whether the table on the device differs from the image's.
func (v *view) fitted() bool { return v.moved || v.resize() != nil }

// resize is what becomes of a partition's entry in the table; nil if nothing.
func (v *view) resize() *ptable.Resize {
	if v.growth == nil {
		return nil
	}
	return v.growth.table
}

// unfit turns the table at the beginning of b, bytes from the disk's start,
// into the image's: the head and, where a partition grows, the entries.
func (v *view) unfit(b []byte) ([]byte, error) {
	head := b
	if r := v.resize(); r != nil {
		var err error
		if head, err = v.resized(b, r.Inverse()); err != nil || !v.moved {
			return head, err
		}
	}
	if int64(len(head)) < 2*v.sector {
		return nil, fmt.Errorf("install: a GPT in %d bytes", len(head))
	}
	first, err := ptable.Unfit(head[:2*v.sector], int(v.sector), v.size, *v.gpt)
	if err != nil || v.resize() == nil {
		return first, err
	}
	copy(head, first)
	return head, nil
}

// resized returns a copy of a head and its entries with a changed partition.
func (v *view) resized(b []byte, r ptable.Resize) ([]byte, error) {
	if v.gpt != nil {
		return r.GPT(b, int(v.sector))
	}
	return r.MBR(b, int(v.sector))
}

// imageHead reads the head from a disk where it is in place and returns it as
// it is in the image. Where a GPT's partition grows the entries are part of it.
func (v *view) imageHead(dev disk.Device) ([]byte, error) {
	b := disk.Buffer(int(v.headSize))
	if _, err := dev.ReadAt(b, 0); err != nil {
		return nil, err
	}
	if !v.fitted() {
		return b, nil
	}
	if v.gpt != nil && v.resize() != nil {
		n, err := ptable.HeadSize(b, int(v.sector))
		if err != nil {
			return nil, err
		}
		if b, err = v.primary(dev, n, b); err != nil {
			return nil, err
		}
	}
	head, err := v.unfit(b)
	if err != nil {
		return nil, err
	}
	copy(b, head)
	return b, nil
}

// primary returns head followed by what the disk has behind it, n bytes at
// least.
func (v *view) primary(dev disk.Device, n int64, head []byte) ([]byte, error) {
	if n > v.dataEnd {
		return nil, fmt.Errorf("install: the image's GPT ends at %d, its backup on %s begins at %d", n, dev.Name(), v.dataEnd)
	}
	b := disk.Buffer(int(max(n, int64(len(head)))))
	if _, err := dev.ReadAt(b[len(head):], int64(len(head))); err != nil {
		return nil, err
	}
	copy(b, head)
	return b, nil
}

// fittedTable is a partition table as it belongs on one disk.
type fittedTable struct {
	// head is what stands at the disk's start: the head at least and, with a
	// GPT, the entries.
	head []byte
	// backup is the backup GPT, nil without a GPT, and backupAt its offset.
	backup   []byte
	backupAt int64
}

// fit makes the table of this disk from the image's head and the partition
// entries on the disk, which must be in place.
func (v *view) fit(dev disk.Device, head []byte) (*fittedTable, error) {
	if v.gpt == nil {
		if v.resize() == nil {
			return &fittedTable{head: head}, nil
		}
		b, err := v.resized(head, *v.resize())
		return &fittedTable{head: b}, err
	}
	n, err := ptable.HeadSize(head, int(v.sector))
	if err != nil {
		return nil, err
	}
	b, err := v.primary(dev, n, head)
	if err != nil {
		return nil, err
	}
	if r := v.resize(); r != nil {
		if n > image.RegionSize {
			return nil, fmt.Errorf("install: the image's GPT ends at %d, past the first region: %w", n, ptable.ErrResize)
		}
		if b, err = v.resized(b, *r); err != nil {
			return nil, err
		}
	}
	f, err := ptable.Fit(b, int(v.sector), v.size)
	if err != nil {
		return nil, err
	}
	if f.BackupAt < v.dataEnd {
		return nil, fmt.Errorf("install: the image's GPT leaves %d bytes for its backup, which takes %d", v.size-v.dataEnd, len(f.Backup))
	}
	copy(b, f.Head)
	return &fittedTable{b, f.Backup, f.BackupAt}, nil
}

// fitOrStay is fit, but where the growing partition cannot grow in the table
// it stays as it is; growth then says why.
func (v *view) fitOrStay(dev disk.Device, head []byte) (*fittedTable, error) {
	t, err := v.fit(dev, head)
	if errors.Is(err, ptable.ErrResize) {
		v.growth.stay(err)
		return v.fit(dev, head)
	}
	return t, err
}

// firstSectors returns the length of what makes the disk bootable: boot sector
// and, with a GPT, its header.
func (v *view) firstSectors() int64 {
	if v.gpt != nil {
		return 2 * v.sector
	}
	return min(v.sector, v.headSize)
}

// backupInPlace reports whether the backup GPT is the one that goes with the
// head on the disk, which must be in place.
func (v *view) backupInPlace(dev disk.Device) (bool, error) {
	head, err := v.imageHead(dev)
	if err != nil {
		return false, err
	}
	t, err := v.fit(dev, head)
	if err != nil {
		return false, err
	}
	b := make([]byte, len(t.backup))
	if _, err := dev.ReadAt(b, t.backupAt); err != nil {
		return false, err
	}
	return bytes.Equal(b, t.backup), nil
}
