// Package probe holds what the readers of all filesystems share: the set of
// used bytes, what a probe finds and how it refuses. Package usedmap exports
// it.
package probe

import (
	"errors"
	"fmt"
	"io"
)

// Result is what a probe found in a partition.
type Result struct {
	// Content names what was found, as blkid does where it knows it ("ext4",
	// "vfat", "swap", "xfs", …), or is "unknown".
	Content string
	// UUID and Label are the content's own; both may be empty.
	UUID, Label string
	// Used is the set of used bytes; nil means that all must be taken.
	Used *Set
	// Paging is, of the used bytes, what holds memory that was swapped out: no
	// system reads it after a start, and an image may go without. May be nil.
	Paging *Set
	// Whole says why Used is nil; it completes "taken whole: ".
	Whole string
	// Dirty says why the content is not at rest, if it is not.
	Dirty string
	// Warnings tells, one sentence each, what is odd.
	Warnings []string
}

// TakeWhole makes r a result without used bytes, for the reason given.
func (r *Result) TakeWhole(format string, a ...any) *Result {
	r.Used, r.Whole = nil, fmt.Sprintf(format, a...)
	return r
}

// Warn adds a warning.
func (r *Result) Warn(format string, a ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, a...))
}

// tailWorthTelling is how many bytes behind the content's end deserve a warning;
// less is the remainder of some alignment.
const tailWorthTelling = 64 << 10

// EndsAt warns of what is between the content's end and that of the partition,
// size bytes long: it is not taken.
func (r *Result) EndsAt(end, size int64) {
	if tail := size - end; tail >= tailWorthTelling {
		r.Warn("the %d bytes between the %s's end and the partition's are not taken", tail, r.Content)
	}
}

// Refuse makes r a result to be taken whole, which is right only if the user
// insists, and returns it with the refusal.
func (r *Result) Refuse(cause string) (*Result, error) {
	r.Dirty = cause
	return r.TakeWhole("%s", cause), &Refused{r.Content, cause}
}

// Refused is the error about content that is in use or damaged, so that an
// image of it would be no sound copy.
type Refused struct {
	// Content is what was found, as in Result.
	Content string
	// Cause tells why it is refused.
	Cause string
}

func (e *Refused) Error() string { return fmt.Sprintf("usedmap: %s: %s", e.Content, e.Cause) }

// Read fills b from offset at of r. An error of the disk is wrapped.
func Read(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("usedmap: read %d bytes at %d: %w", len(b), at, err)
}

// UUID prints 16 bytes as a UUID; all zeros give the empty string.
func UUID(b []byte) string {
	if [16]byte(b) == ([16]byte{}) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
