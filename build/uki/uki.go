// Package uki makes unified kernel images: one file for UEFI firmware that holds kernel, initramfs and command line
// (UAPI group, "Unified Kernel Image" specification). Firmware starts it like any program, by whichever way it got it,
// and where Secure Boot asks for a signature, one covers all.
//
// The program in it is systemd's stub, which finds the other parts as sections of its own file. They are appended here
// instead of by objcopy or ukify: it is a table of eight fields a section (PE format, section headers), the result is
// the same bytes everywhere, and nothing has to be installed for it but the stub.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Section is a part of the image under the name that the stub looks for, at most 8 bytes.
type Section struct {
	Name string
	Data []byte
}

// The sections that systemd-stub(7) reads and we fill.
const (
	OSRelease   = ".osrel"
	CommandLine = ".cmdline"
	Initramfs   = ".initrd"
	Kernel      = ".linux"
)

// Offsets in the file (PE format): of the offset of the PE header, and from there on. The optional header is PE32+.
const (
	offHeader = 0x3c

	offSections     = 6
	offSymbols      = 12
	offOptionalSize = 20
	offOptional     = 24

	offInitialized = offOptional + 8
	offSectAlign   = offOptional + 32
	offFileAlign   = offOptional + 36
	offImageSize   = offOptional + 56
	offHeadersSize = offOptional + 60
	offChecksum    = offOptional + 64

	optionalMin = 112 // of PE32+, without data directories
	magicPE32p  = 0x20b
	headerSize  = 40 // of a section
)

// pageSize is where sections begin in memory: the stub's own alignment is smaller, but newer firmware protects memory by
// the page.
const pageSize = 4096

// characteristics of our sections: initialised data, readable.
const characteristics = 0x40000040

// maxSection bounds a section: all offsets are 32 bits wide, and firmware copies the whole file a few times.
const maxSection = 1 << 30

// Append returns the program stub with the sections behind its own, in order. It drops the stub's symbols.
func Append(stub []byte, sections []Section) ([]byte, error) {
	p, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	for _, s := range sections {
		if err := p.add(s); err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
	}
	return p.file, nil
}

// program is a PE file that sections are added to.
type program struct {
	file  []byte
	pe    int    // where "PE\0\0" stands in file
	table int    // where the section headers begin
	limit int    // where the headers end
	align uint32 // of sections in the file
	end   uint32 // of what is in memory
	names []string
}

func parse(stub []byte) (*program, error) {
	le := binary.LittleEndian
	if len(stub) < offHeader+4 || string(stub[:2]) != "MZ" {
		return nil, errors.New("no PE file")
	}
	at := uint64(le.Uint32(stub[offHeader:]))
	if at+offOptional+optionalMin > uint64(len(stub)) || string(stub[at:at+4]) != "PE\x00\x00" {
		return nil, errors.New("no PE header")
	}
	h := stub[at:]
	if m := le.Uint16(h[offOptional:]); m != magicPE32p {
		return nil, fmt.Errorf("optional header of kind %#x, want PE32+ (%#x)", m, magicPE32p)
	}
	size, align := uint64(le.Uint32(h[offHeadersSize:])), le.Uint32(h[offFileAlign:])
	table := offOptional + int(le.Uint16(h[offOptionalSize:]))
	count := int(le.Uint16(h[offSections:]))
	switch {
	case table < offOptional+optionalMin:
		return nil, fmt.Errorf("optional header of %d bytes, want %d at least", table-offOptional, optionalMin)
	case size <= at || size > uint64(len(stub)) || at+uint64(table+count*headerSize) > size:
		return nil, fmt.Errorf("headers of %d bytes do not hold %d sections", size, count)
	case align < 1 || align > pageSize || align&(align-1) != 0 || le.Uint32(h[offSectAlign:]) > pageSize:
		return nil, fmt.Errorf("sections aligned to %d bytes in the file, %d in memory", align, le.Uint32(h[offSectAlign:]))
	}
	p := &program{pe: int(at), table: int(at) + table, limit: int(size), align: align}
	used, err := p.measure(stub, h[table:table+count*headerSize])
	if err != nil {
		return nil, err
	}
	p.file = slices.Clone(stub[:max(used, size)])
	// The symbols stood behind the last section; a checksum is only for drivers of another system.
	clear(p.header()[offSymbols : offSymbols+8])
	clear(p.header()[offChecksum : offChecksum+4])
	return p, nil
}

func (p *program) header() []byte { return p.file[p.pe:p.limit] }

// measure reads the stub's own section headers and returns where its last section ends in the file.
func (p *program) measure(stub, table []byte) (used uint64, err error) {
	le := binary.LittleEndian
	for h := range slices.Chunk(table, headerSize) {
		name := cString(h[:8])
		size, start := uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[12:]))
		rawSize, raw := uint64(le.Uint32(h[16:])), uint64(le.Uint32(h[20:]))
		if raw+rawSize > uint64(len(stub)) || start+max(size, rawSize) > maxSection {
			return 0, fmt.Errorf("section %s leads out of the file", name)
		}
		p.names = append(p.names, name)
		used = max(used, raw+rawSize)
		p.end = max(p.end, uint32(start+max(size, rawSize)))
	}
	return used, nil
}

func cString(b []byte) string {
	if i := slices.Index(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// add puts a section behind all others, in the file and in memory.
func (p *program) add(s Section) error {
	le := binary.LittleEndian
	at := p.table + len(p.names)*headerSize
	switch {
	case s.Name == "" || len(s.Name) > 8:
		return errors.New("a name has 1 to 8 bytes")
	case slices.Contains(p.names, s.Name):
		return errors.New("the stub has one already")
	case len(s.Data) == 0 || len(s.Data) > maxSection:
		return fmt.Errorf("%d bytes, want 1 to %d", len(s.Data), maxSection)
	case at+headerSize > p.limit:
		return fmt.Errorf("no room for another header after %d", len(p.names))
	}
	start, raw := alignUp(p.end, pageSize), alignUp(uint32(len(p.file)), p.align)
	rawSize := alignUp(uint32(len(s.Data)), p.align)
	if uint64(start)+uint64(rawSize) > 2*maxSection || uint64(raw)+uint64(rawSize) > 2*maxSection {
		return errors.New("the image would be larger than 2 GiB")
	}
	p.file = append(p.file, make([]byte, int(raw)-len(p.file)+int(rawSize))...)
	copy(p.file[raw:], s.Data)
	h := p.file[at : at+headerSize]
	clear(h)
	copy(h, s.Name)
	le.PutUint32(h[8:], uint32(len(s.Data)))
	le.PutUint32(h[12:], start)
	le.PutUint32(h[16:], rawSize)
	le.PutUint32(h[20:], raw)
	le.PutUint32(h[36:], characteristics)
	p.names = append(p.names, s.Name)
	p.end = start + uint32(len(s.Data))
	pe := p.header()
	le.PutUint16(pe[offSections:], uint16(len(p.names)))
	le.PutUint32(pe[offImageSize:], alignUp(p.end, pageSize))
	le.PutUint32(pe[offInitialized:], le.Uint32(pe[offInitialized:])+rawSize)
	return nil
}

func alignUp(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }
