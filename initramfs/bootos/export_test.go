package bootos

import "io"

// Identify is identify for the tests.
func Identify(r io.ReaderAt) (kind, uuid, label string, err error) {
	f, err := identify(r)
	return f.kind, f.uuid, f.label, err
}
