package store

import (
	"bytes"

	"huck/imager/image"
)

// ReadTable reads a pack's table and returns the number of its chunks and the
// table's hash; for tests of the codec.
func ReadTable(b []byte) (int, image.ID, error) {
	entries, name, err := readTable(bytes.NewReader(b), int64(len(b)))
	return len(entries), name, err
}

// RewriteTable reads a pack and writes its table anew.
func RewriteTable(b []byte) ([]byte, error) {
	entries, _, err := readTable(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	table, _ := appendTable(nil, entries)
	return table, nil
}
