// Package ukitest makes stubs for tests of unified kernel images.
package ukitest

import "encoding/binary"

// Stub returns a program for UEFI with one section of code, 0x400 bytes of headers, and a symbol table behind it.
func Stub() []byte {
	const pe, headers, symbols = 0x40, 0x400, 18
	le := binary.LittleEndian
	b := make([]byte, headers+0x200+symbols)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], pe)
	h := b[pe:]
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], 0x8664)
	le.PutUint16(h[6:], 1) // sections
	le.PutUint32(h[12:], headers+0x200)
	le.PutUint32(h[16:], 1) // symbols
	le.PutUint16(h[20:], 240)
	le.PutUint16(h[22:], 0x0206) // executable, line numbers stripped, debug stripped
	o := h[24:]
	le.PutUint16(o, 0x20b)
	le.PutUint32(o[4:], 0x200) // code
	le.PutUint32(o[32:], 0x200)
	le.PutUint32(o[36:], 0x200)
	le.PutUint32(o[56:], 0x1200)
	le.PutUint32(o[60:], headers)
	le.PutUint32(o[64:], 0x1234) // checksum
	le.PutUint16(o[68:], 10)     // EFI application
	le.PutUint32(o[108:], 16)    // data directories, all empty
	s := o[240:]
	copy(s, ".text")
	le.PutUint32(s[8:], 0x123)
	le.PutUint32(s[12:], 0x1000)
	le.PutUint32(s[16:], 0x200)
	le.PutUint32(s[20:], headers)
	le.PutUint32(s[36:], 0x60000020)
	copy(b[headers:], "the stub's code")
	return b
}
