package console

import (
	"strconv"
	"strings"
)

// input takes what a terminal sends apart: keys, and answers to probe. Other
// sequences, arrow keys and the like, are passed over.
type input struct {
	escape []byte // of a sequence so far
}

// maxEscape bounds a sequence, in bytes.
const maxEscape = 32

// feed takes bytes as they come and returns the keys among them, and the size
// from the last answer, 0 if there was none.
func (in *input) feed(b []byte) (keys []byte, rows, cols int) {
	for _, c := range b {
		switch {
		case c == 0x1b:
			in.escape = append(in.escape[:0], c)
		case len(in.escape) == 1 && (c == '[' || c == 'O'):
			in.escape = append(in.escape, c)
		case len(in.escape) == 1:
			in.escape = nil // Alt and a key, or Escape and one
		case len(in.escape) > 1 && (c < 0x40 || c > 0x7e): // parameters (ECMA-48 section 5.4)
			if in.escape = append(in.escape, c); len(in.escape) > maxEscape {
				in.escape = nil
			}
		case len(in.escape) > 1:
			if r, k, ok := position(string(in.escape[2:])); ok && c == 'R' {
				rows, cols = r, k
			}
			in.escape = nil
		default:
			keys = append(keys, c)
		}
	}
	return keys, rows, cols
}

// position reads the parameters of a cursor position report, ROW;COLUMN.
func position(s string) (rows, cols int, ok bool) {
	a, b, ok := strings.Cut(s, ";")
	rows, err := strconv.Atoi(a)
	cols, err2 := strconv.Atoi(b)
	return rows, cols, ok && err == nil && err2 == nil
}
