package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Opcodes of RFC 1350 section 5 and RFC 2347. All numbers are big-endian.
//
//	RRQ   | 1 | name | 0 | mode | 0 | { option | 0 | value | 0 }
//	WRQ   | 2 | as RRQ
//	DATA  | 3 | block (2) | at most blksize bytes
//	ACK   | 4 | block (2)
//	ERROR | 5 | code (2) | text | 0
//	OACK  | 6 | { option | 0 | value | 0 }
const (
	opRead = 1 + iota
	opWrite
	opData
	opAck
	opError
	opOptions
)

// Error codes of RFC 1350 section 5 and RFC 2347.
const (
	codeOther     = 0
	codeNotFound  = 1
	codeDenied    = 2
	codeIllegal   = 4
	codeBadOption = 8
)

const (
	// maxRequest is RFC 2347's limit of a request, in bytes.
	maxRequest = 512
	// defaultBlock is the block of RFC 1350, minBlock and maxBlock the limits
	// of RFC 2348, in bytes.
	defaultBlock = 512
	minBlock     = 8
	maxBlock     = 65464
	// maxWindow bounds the blocks in flight: 90 KiB of an Ethernet's blocks, a
	// switch port's share of buffer. Firmware asks for 4 (edk2) to 16.
	maxWindow = 64
	// maxTimeout bounds the client's wish for the time until something is sent
	// again, which bounds how long it can hold a transfer.
	maxTimeout = 8 * time.Second
)

// Request is a request to read or write.
type Request struct {
	Write bool
	Name  string
	Mode  string // in lower case
	// Options as the client sent them, the first of each name; names in lower
	// case, in its order.
	Options []Option
}

// Option is an option of RFC 2347.
type Option struct{ Name, Value string }

var errMalformed = errors.New("malformed request")

// ParseRequest reads an RRQ or WRQ (RFC 1350 section 5, RFC 2347).
func ParseRequest(b []byte) (Request, error) {
	var r Request
	if len(b) > maxRequest || len(b) < 4 || b[len(b)-1] != 0 {
		return r, errMalformed
	}
	switch op := binary.BigEndian.Uint16(b); op {
	case opRead:
	case opWrite:
		r.Write = true
	default:
		return r, fmt.Errorf("opcode %d is no request", op)
	}
	words := strings.Split(string(b[2:len(b)-1]), "\x00")
	if len(words) < 2 || words[0] == "" {
		return r, errMalformed
	}
	r.Name, r.Mode = words[0], strings.ToLower(words[1])
	// Padding after the options is not worth a failed boot.
	seen := map[string]bool{}
	for rest := words[2:]; len(rest) >= 2; rest = rest[2:] {
		name := strings.ToLower(rest[0])
		if name != "" && !seen[name] {
			seen[name] = true
			r.Options = append(r.Options, Option{name, rest[1]})
		}
	}
	return r, nil
}

// terms are what a transfer keeps to.
type terms struct {
	block   int // bytes
	window  int // blocks
	timeout time.Duration
	// accepted goes back to the client; if it is empty, nothing does.
	accepted []Option
}

// negotiate answers the options of a request for a file of size bytes. What is
// unknown or makes no sense is left out, as if it had not been sent (RFC 2347).
func negotiate(options []Option, largest int, size int64) terms {
	t := terms{block: defaultBlock, window: 1, timeout: retryAfter}
	accept := func(name string, value int64) {
		t.accepted = append(t.accepted, Option{name, strconv.FormatInt(value, 10)})
	}
	for _, o := range options {
		n, err := strconv.ParseInt(o.Value, 10, 64)
		if err != nil {
			continue
		}
		switch {
		case o.Name == "blksize" && minBlock <= n && n <= maxBlock: // RFC 2348
			t.block = int(min(n, int64(largest)))
			accept(o.Name, int64(t.block))
		case o.Name == "tsize" && size > 0: // RFC 2349; of 0 curl thinks that it is a mistake
			accept(o.Name, size)
		case o.Name == "timeout" && 1 <= n && n <= int64(maxTimeout/time.Second): // RFC 2349
			t.timeout = time.Duration(n) * time.Second
			accept(o.Name, n)
		case o.Name == "windowsize" && 1 <= n && n <= 65535: // RFC 7440
			t.window = int(min(n, maxWindow))
			accept(o.Name, int64(t.window))
		}
	}
	return t
}

// appendOptions appends an OACK.
func appendOptions(b []byte, options []Option) []byte {
	b = binary.BigEndian.AppendUint16(b, opOptions)
	for _, o := range options {
		b = append(append(append(append(b, o.Name...), 0), o.Value...), 0)
	}
	return b
}

// appendError appends an ERROR.
func appendError(b []byte, code uint16, text string) []byte {
	b = binary.BigEndian.AppendUint16(b, opError)
	b = binary.BigEndian.AppendUint16(b, code)
	return append(append(b, text...), 0)
}

// parseAnswer reads what a client sends in a transfer: the block of an ACK, or
// an ERROR as an error; ok is false for anything else.
func parseAnswer(b []byte) (block uint16, ok bool, err error) {
	if len(b) < 4 {
		return 0, false, nil
	}
	number := binary.BigEndian.Uint16(b[2:])
	switch binary.BigEndian.Uint16(b) {
	case opAck:
		return number, true, nil
	case opError:
		text, _, _ := strings.Cut(string(b[4:min(len(b), 204)]), "\x00")
		return 0, false, fmt.Errorf("%w: error %d: %q", errClient, number, text)
	}
	return 0, false, nil
}

// errClient is wrapped for a transfer that the client ended.
var errClient = errors.New("the client gave up")
