// Package protocol is the bytes of Huck's multicast protocol: packets, their
// authentication, the erasure code over a chunk's symbols and the replay
// window. PROTOCOL.md in the folder above is the specification; section names
// below are its headings. Nothing here knows sockets or time.
//
// Every packet is (Packet)
//
//	 0       1       2       3       4       5       6       7
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|  'H'  |ver|typ|            session            |    counter    :
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	:        counter (48 bits)      |             epoch             |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|  body, by type                                                :
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	:  tag (96 bits)                                                |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//
// Integers are big-endian. Bytes after the fields of a body that this version
// knows are an error: a change of layout raises the version.
package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// Version is the protocol version in every packet.
	Version = 1
	// HeaderSize is the bytes before the body.
	HeaderSize = 16
	// TagSize is the bytes after the body: GMAC cut to 96 bits, the shortest
	// length NIST SP 800-38D allows without limits on use.
	TagSize = 12
	// DataSize is the bytes of a data packet beside its payload. With IPv4 and
	// UDP headers, a full packet of 1408 bytes of payload costs 4.8 % more
	// than its payload.
	DataSize = HeaderSize + dataBody + TagSize
	// MaxPacket bounds a packet, in bytes: a jumbo frame.
	MaxPacket = 9216
	// MaxCounter is the last counter of an epoch. At 10 Gbit/s it lasts for ten
	// years.
	MaxCounter = 1<<48 - 1
	// MaxEntries is how many entries fit a packet of 1200 bytes, which every
	// network carries.
	MaxEntries = (1200 - HeaderSize - TagSize - 16) / entrySize

	magic        = 'H'
	dataBody     = 12
	announceBody = 12
	requestBody  = 16
	reportBody   = 36
	entrySize    = 8
)

// Type says what a packet's body is.
type Type uint8

// The types. Numbers are never reused; 0 and 7 to 15 are unassigned.
const (
	// TypeData carries one symbol of a chunk (Data).
	TypeData Type = 1
	// TypeAnnounce tells what the sender is going to send (Announce).
	TypeAnnounce Type = 2
	// TypeRequest asks the sender for symbols (Request).
	TypeRequest Type = 3
	// TypeUnavailable names chunks the sender cannot read (Unavailable).
	TypeUnavailable Type = 4
	// TypeStraggler names receivers that are to leave the channel (Straggler).
	TypeStraggler Type = 5
	// TypeReport tells the sender how its packets arrive (Report).
	TypeReport Type = 6
)

// String names the type.
func (t Type) String() string {
	switch t {
	case TypeData:
		return "data"
	case TypeAnnounce:
		return "announce"
	case TypeRequest:
		return "request"
	case TypeUnavailable:
		return "unavailable"
	case TypeStraggler:
		return "straggler"
	case TypeReport:
		return "report"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// ErrMalformed is wrapped by every parse error.
var ErrMalformed = errors.New("malformed packet")

// Header is what every packet begins with (Packet).
type Header struct {
	Type    Type
	Session uint32
	// Epoch is the sender's, also in requests.
	Epoch uint32
	// Counter is 1 in the first packet that a key seals in an epoch and grows
	// by one; at most MaxCounter.
	Counter uint64
}

// AppendBinary appends the header.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	if h.Counter == 0 || h.Counter > MaxCounter || h.Type == 0 || h.Type > 15 {
		return b, fmt.Errorf("protocol: header with counter %d and %v", h.Counter, h.Type)
	}
	b = append(b, magic, Version<<4|byte(h.Type))
	b = binary.BigEndian.AppendUint32(b, h.Session)
	b = append48(b, h.Counter)
	return binary.BigEndian.AppendUint32(b, h.Epoch), nil
}

// ParseHeader reads a packet's header and returns its body. It does not check
// the tag: that takes a Key, and the header says which.
func ParseHeader(packet []byte) (Header, []byte, error) {
	n := len(packet)
	if n < HeaderSize+TagSize || n > MaxPacket {
		return Header{}, nil, fmt.Errorf("protocol: packet of %d bytes: %w", n, ErrMalformed)
	}
	if packet[0] != magic || packet[1]>>4 != Version {
		return Header{}, nil, fmt.Errorf("protocol: starts with %#x, version 1 does with 0x48 0x1.: %w", packet[:2], ErrMalformed)
	}
	h := Header{
		Type:    Type(packet[1] & 15),
		Session: binary.BigEndian.Uint32(packet[2:]),
		Counter: uint48(packet[6:]),
		Epoch:   binary.BigEndian.Uint32(packet[12:]),
	}
	if h.Counter == 0 {
		return Header{}, nil, fmt.Errorf("protocol: counter 0: %w", ErrMalformed)
	}
	return h, packet[HeaderSize : n-TagSize], nil
}

func append48(b []byte, v uint64) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(v>>32))
	return binary.BigEndian.AppendUint32(b, uint32(v))
}

func uint48(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
