package protocol

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Data carries one symbol (Data).
//
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|             chunk             |        encoding tag           |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|     encoded length    |symbol |  payload                      :
//	+-------+-------+-------+-------+-------+-------+-------+-------+
type Data struct {
	// Chunk is the chunk's number (image.Layout).
	Chunk uint32
	// Tag tells encodings of the chunk apart (image.Tag).
	Tag uint32
	// Length is the encoded chunk's, in bytes: 1 to MaxChunk.
	Length int
	// Symbol is the symbol's number: below Shape.K it is a piece of the
	// encoded chunk, else a parity symbol.
	Symbol uint8
	// Payload is the symbol; parsed, it aliases the packet.
	Payload []byte
}

// AppendBinary appends the body.
func (d *Data) AppendBinary(b []byte) ([]byte, error) {
	if d.Length < 1 || d.Length > MaxChunk || len(d.Payload) == 0 {
		return b, fmt.Errorf("protocol: data of chunk %d: length %d, payload %d", d.Chunk, d.Length, len(d.Payload))
	}
	b = binary.BigEndian.AppendUint32(b, d.Chunk)
	b = binary.BigEndian.AppendUint32(b, d.Tag)
	b = append(b, byte(d.Length>>16), byte(d.Length>>8), byte(d.Length), d.Symbol)
	return append(b, d.Payload...), nil
}

// ParseData reads the body of a data packet. Whether the payload's length fits
// the symbol is for Shape.SymbolLen to say, which needs the session's symbol
// size.
func ParseData(body []byte) (Data, error) {
	if len(body) <= dataBody {
		return Data{}, fmt.Errorf("protocol: data of %d bytes: %w", len(body), ErrMalformed)
	}
	d := Data{
		Chunk:   binary.BigEndian.Uint32(body),
		Tag:     binary.BigEndian.Uint32(body[4:]),
		Length:  int(body[8])<<16 | int(body[9])<<8 | int(body[10]),
		Symbol:  body[11],
		Payload: body[dataBody:],
	}
	if d.Length < 1 || d.Length > MaxChunk || d.Chunk >= MaxChunks {
		return Data{}, fmt.Errorf("protocol: data of chunk %d with %d bytes: %w", d.Chunk, d.Length, ErrMalformed)
	}
	return d, nil
}

// Entry names symbols of some chunks in requests and announcements (Entry).
//
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|             chunk             |     count     | from  |   n   |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
type Entry struct {
	// Chunk is the first chunk's number.
	Chunk uint32
	// Count is how many consecutive chunks the entry speaks of, from 1 on.
	Count uint16
	// From is the number of the first symbol, N how many cyclically
	// consecutive ones; 0 stands for as many as the chunk has source symbols.
	From, N uint8
}

func appendEntries(b []byte, entries []Entry) ([]byte, error) {
	for _, e := range entries {
		if err := e.check(); err != nil {
			return b, err
		}
		b = binary.BigEndian.AppendUint32(b, e.Chunk)
		b = binary.BigEndian.AppendUint16(b, e.Count)
		b = append(b, e.From, e.N)
	}
	return b, nil
}

func (e Entry) check() error {
	if e.Count == 0 || uint64(e.Chunk)+uint64(e.Count) > MaxChunks {
		return fmt.Errorf("protocol: entry of %d chunks from %d on: %w", e.Count, e.Chunk, ErrMalformed)
	}
	return nil
}

// parseEntries appends the entries in b to buf.
func parseEntries(b []byte, buf []Entry) ([]Entry, error) {
	if len(b)%entrySize != 0 {
		return buf, fmt.Errorf("protocol: %d bytes of entries: %w", len(b), ErrMalformed)
	}
	for ; len(b) > 0; b = b[entrySize:] {
		e := Entry{binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[4:]), b[6], b[7]}
		if err := e.check(); err != nil {
			return buf, err
		}
		buf = append(buf, e)
	}
	return buf, nil
}

// Announce tells what the sender is going to send (Announce).
//
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|      rate, kbit/s             |            chunks             |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	| flags |members|reports|reserv.| entries                       :
//	+-------+-------+-------+-------+-------+-------+-------+-------+
type Announce struct {
	// Rate is the sender's present rate in kbit/s of IP packets.
	Rate uint32
	// Chunks is how many the image has.
	Chunks uint32
	// More says that Queue is only the beginning of what is queued (flag bit 0).
	More bool
	// Members is the size of the group, as its binary logarithm rounded up.
	Members uint8
	// Reports is how often a receiver is to report, in units of ReportUnit; 0 is
	// never.
	Reports uint8
	// Queue is what will be sent, in that order as far as is known.
	Queue []Entry
}

// AppendBinary appends the body.
func (a *Announce) AppendBinary(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint32(b, a.Rate)
	b = binary.BigEndian.AppendUint32(b, a.Chunks)
	flags := byte(0)
	if a.More {
		flags = 1
	}
	return appendEntries(append(b, flags, a.Members, a.Reports, 0), a.Queue)
}

// ParseAnnounce reads the body of an announcement; entries are appended to
// buf[:0].
func ParseAnnounce(body []byte, buf []Entry) (Announce, error) {
	if len(body) < announceBody {
		return Announce{}, fmt.Errorf("protocol: announcement of %d bytes: %w", len(body), ErrMalformed)
	}
	a := Announce{
		Rate:    binary.BigEndian.Uint32(body),
		Chunks:  binary.BigEndian.Uint32(body[4:]),
		More:    body[8]&1 != 0,
		Members: body[9],
		Reports: body[10],
	}
	var err error
	a.Queue, err = parseEntries(body[announceBody:], buf[:0])
	return a, err
}

// Request asks for symbols (Request).
//
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|                           receiver                            |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|              seen (48 bits)                   |   reserved    |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	| entries                                                       :
type Request struct {
	// Receiver is a random number the receiver drew when it started; its key
	// is derived from it.
	Receiver uint64
	// Seen is the highest counter of the sender's packets the receiver has
	// believed in this epoch; 0 is none. What flew later is still under way.
	Seen uint64
	// Want is what the receiver lacks after Seen. None asks for an
	// announcement.
	Want []Entry
}

// AppendBinary appends the body.
func (r *Request) AppendBinary(b []byte) ([]byte, error) {
	if r.Seen > MaxCounter {
		return b, fmt.Errorf("protocol: request with seen %d", r.Seen)
	}
	b = binary.BigEndian.AppendUint64(b, r.Receiver)
	b = append48(b, r.Seen)
	return appendEntries(append(b, 0, 0), r.Want)
}

// ParseReceiver reads only the receiver of a request's or report's body, for
// whoever has to find the key before the rest can be believed.
func ParseReceiver(body []byte) (uint64, error) {
	if len(body) < requestBody {
		return 0, fmt.Errorf("protocol: request or report of %d bytes: %w", len(body), ErrMalformed)
	}
	return binary.BigEndian.Uint64(body), nil
}

// ParseRequest reads the body of a request; entries are appended to buf[:0].
func ParseRequest(body []byte, buf []Entry) (Request, error) {
	id, err := ParseReceiver(body)
	if err != nil {
		return Request{}, err
	}
	r := Request{Receiver: id, Seen: uint48(body[8:])}
	r.Want, err = parseEntries(body[requestBody:], buf[:0])
	return r, err
}

// Unavailable names chunks that the sender cannot read now (Unavailable): a
// list of entries whose From and N are 0.
type Unavailable struct{ Chunks []Entry }

// AppendBinary appends the body.
func (u *Unavailable) AppendBinary(b []byte) ([]byte, error) {
	return appendEntries(b, u.Chunks)
}

// ParseUnavailable reads the body; entries are appended to buf[:0].
func ParseUnavailable(body []byte, buf []Entry) (Unavailable, error) {
	entries, err := parseEntries(body, buf[:0])
	return Unavailable{entries}, err
}

// ReportUnit is the unit of Announce.Reports.
const ReportUnit = 20 * time.Millisecond

// Report tells how a stretch of the sender's packets arrived (Report).
//
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|                           receiver                            |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|              first (48 bits)                  |    last       :
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	:            last (48 bits)     |           received            |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|        elapsed, us            |           age, us             |
//	+-------+-------+-------+-------+-------+-------+-------+-------+
//	|        sink, kbit/s           |
//	+-------+-------+-------+-------+
type Report struct {
	// Receiver is as in Request.
	Receiver uint64
	// First and Last bound the stretch: it begins after the packet with counter
	// First and ends with Last. Received counts the packets of it that came.
	First, Last uint64
	Received    uint32
	// Elapsed is the time between the arrivals of First and Last, Age the time
	// since that of Last; both in whole microseconds, at most MaxElapsed.
	Elapsed, Age time.Duration
	// Sink is the rate in kbit/s, of packets with what they carry, at which the
	// receiver's disk takes chunks while it lags behind; 0 if it does not lag.
	Sink uint32
}

// MaxElapsed is the longest time that a report can tell of.
const MaxElapsed = (1<<32 - 1) * time.Microsecond

// AppendBinary appends the body.
func (r *Report) AppendBinary(b []byte) ([]byte, error) {
	if r.First > r.Last || r.Last > MaxCounter || min(r.Elapsed, r.Age) < 0 || max(r.Elapsed, r.Age) > MaxElapsed {
		return b, fmt.Errorf("protocol: report of %d to %d, %v, %v", r.First, r.Last, r.Elapsed, r.Age)
	}
	b = binary.BigEndian.AppendUint64(b, r.Receiver)
	b = append48(append48(b, r.First), r.Last)
	b = binary.BigEndian.AppendUint32(b, r.Received)
	b = binary.BigEndian.AppendUint32(b, uint32(r.Elapsed/time.Microsecond))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Age/time.Microsecond))
	return binary.BigEndian.AppendUint32(b, r.Sink), nil
}

// ParseReport reads the body.
func ParseReport(body []byte) (Report, error) {
	if len(body) != reportBody {
		return Report{}, fmt.Errorf("protocol: report of %d bytes: %w", len(body), ErrMalformed)
	}
	r := Report{
		Receiver: binary.BigEndian.Uint64(body),
		First:    uint48(body[8:]),
		Last:     uint48(body[14:]),
		Received: binary.BigEndian.Uint32(body[20:]),
		Elapsed:  time.Duration(binary.BigEndian.Uint32(body[24:])) * time.Microsecond,
		Age:      time.Duration(binary.BigEndian.Uint32(body[28:])) * time.Microsecond,
		Sink:     binary.BigEndian.Uint32(body[32:]),
	}
	if r.First > r.Last {
		return Report{}, fmt.Errorf("protocol: report of %d to %d: %w", r.First, r.Last, ErrMalformed)
	}
	return r, nil
}

// Straggler names receivers that are too slow for the group and are to leave
// it (Straggler): 8 bytes each.
type Straggler struct{ Receivers []uint64 }

// AppendBinary appends the body.
func (s *Straggler) AppendBinary(b []byte) ([]byte, error) {
	for _, r := range s.Receivers {
		b = binary.BigEndian.AppendUint64(b, r)
	}
	return b, nil
}

// ParseStraggler reads the body.
func ParseStraggler(body []byte) (Straggler, error) {
	if len(body) == 0 || len(body)%8 != 0 {
		return Straggler{}, fmt.Errorf("protocol: straggler message of %d bytes: %w", len(body), ErrMalformed)
	}
	var s Straggler
	for ; len(body) > 0; body = body[8:] {
		s.Receivers = append(s.Receivers, binary.BigEndian.Uint64(body))
	}
	return s, nil
}
