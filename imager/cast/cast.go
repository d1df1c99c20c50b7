// Package cast carries encoded chunks from one sender to any number of
// receivers over UDP multicast. PROTOCOL.md beside it is the specification.
//
// [Sender] and [Receiver] are state machines that know no socket and no clock:
// packets and times go in, packets and times come out, so that casttest runs
// whole groups of them in virtual time. [Server] and [Reception] are the shells
// that give them sockets.
package cast

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"huck/imager/api"
)

// Via is what [Reception] says to Sink.Deliver about where a chunk came from.
const Via = "multicast"

// Errors of Feed.
var (
	// ErrNoMulticast: requests went out and not one packet of the group came
	// back, or the group fell silent for long while Refresh still works. The
	// network between does not carry it; other transports may.
	ErrNoMulticast = errors.New("no multicast arrives here")
	// ErrBadChannel: chunks that the channel delivered were not the image's.
	ErrBadChannel = errors.New("channel delivers wrong chunks")
	// ErrUnavailable: the sender cannot read a chunk from its store.
	ErrUnavailable = errors.New("chunk unavailable at the sender")
	// ErrStraggler: the sender told this receiver to leave, since the way to it
	// or its disk is far slower than most of the group's.
	ErrStraggler = errors.New("too slow for the channel's group")
)

// Sink is where received chunks go and what knows which are missing. Its
// methods are called from several goroutines at once.
type Sink interface {
	// Useful reports that chunk n is neither known to be in place nor
	// delivered: its bytes may still be wanted. It is false for a number that
	// no chunk has.
	Useful(n uint32) bool
	// Missing fills buf, up to its length, with chunks known to be missing
	// and not delivered, ascending from the number from on and then again from
	// 0, none twice, and returns the part of buf it filled.
	Missing(from uint32, buf []uint32) []uint32
	// Complete returns a channel that is closed once nothing is missing and
	// nothing more can be.
	Complete() <-chan struct{}
	// Deliver hands over an encoded chunk, whose bytes are the Sink's until it
	// returns. It blocks while the Sink has no room. A *image.ChunkError says that
	// the bytes were not chunk n, which stays missing; any other error is the
	// Sink's own and ends Feed.
	Deliver(ctx context.Context, n uint32, encoded []byte, via string) error
}

// Source is where a channel's chunks come from.
type Source interface {
	// Chunks returns how many chunks there are (image.Layout), Parts how many
	// parts of the chunk map, whose numbers follow those of the chunks.
	Chunks() int
	Parts() int
	// Chunk returns the encoded bytes of chunk or part n, at most image.RegionSize
	// of them, which the caller does not change. It is called from several
	// goroutines. An error makes the channel tell its receivers that the chunk
	// is unavailable; it is read again when it is wanted later.
	Chunk(ctx context.Context, n uint32) ([]byte, error)
}

// ServerConfig is what Listen needs.
type ServerConfig struct {
	// Interface sends the groups' packets; required.
	Interface *net.Interface
	// Addr is where requests are received; port 0 takes a free one. Its family
	// is the groups' family; the zero value is any IPv4 address.
	Addr netip.AddrPort
	// Rate caps all channels together, in bits a second of IP packets; 0 is no
	// cap beside the channels' own.
	Rate int64
	// Polite channels leave TCP flows on their way a fair share. Others take
	// what the network gives.
	Polite bool
	// Floor is the part of a group's median capacity below which a receiver is
	// told to leave (ErrStraggler); 0 is a quarter, and below 0 nobody is.
	Floor float64
	// TTL of the groups' packets; 0 is 1, which no router forwards.
	TTL int
	// SymbolSize is the most payload of a data packet in bytes: 0 takes 1408,
	// or 1152 if the interface's MTU is below 1500. Larger values are for
	// networks that carry jumbo frames throughout.
	SymbolSize int
	// Jumbo takes, if SymbolSize is 0, the largest symbols that the interface's
	// MTU carries. A receiver whose MTU is smaller goes without multicast.
	Jumbo bool
	// DSCP is the class of service of the groups' packets, 0 to 63 (RFC 2474).
	DSCP int
	// Gather is how long a channel that was idle holds chunks back after the
	// first request, and again after each receiver that is told of the channel
	// meanwhile, four times that in all: so that machines switched on together
	// share it from the first chunk on, and one that is alone waits little.
	Gather time.Duration
	// Log may be nil.
	Log *slog.Logger
}

// ReceiverConfig is what Join needs.
type ReceiverConfig struct {
	// Channel is the channel to join, with a Sender address that is not
	// unspecified.
	Channel api.Channel
	// Interface joins the group; nil takes the one that routes to the sender.
	Interface *net.Interface
	// Refresh asks the API for the channel again, after the sender was
	// restarted or fell silent. It is called at most once a second. Nil keeps
	// to Channel, however long that is silent.
	Refresh func(ctx context.Context) (api.Channel, error)
	// Log may be nil.
	Log *slog.Logger
}

// Feed says whom a channel feeds.
type Feed struct {
	// Sink takes the chunks; required.
	Sink Sink
	// Failed is told of a chunk that has to come by another way: err wraps
	// ErrUnavailable or is the *image.ChunkError of Deliver. The channel is
	// not asked for it again for a while. It must not block. If it is nil,
	// an unavailable chunk is Feed's error.
	Failed func(n uint32, err error)
}

// SenderStats counts what a channel's sender did. Bytes are those of whole IP
// packets, offloads undone.
type SenderStats struct {
	// Rate is what the channel may send at present, in bits a second of IP
	// packets.
	Rate int64
	// Members is how many receivers were heard lately.
	Members int
	// Packets and Bytes were sent in all, DataPackets of them with a symbol
	// and ParityPackets with a parity symbol.
	Packets, Bytes, DataPackets, ParityPackets uint64
	// Announces were sent.
	Announces uint64
	// Requests and Reports were received and believed; Rejected packets were
	// malformed, forged, foreign or replayed.
	Requests, Reports, Rejected uint64
	// Stragglers were told to leave.
	Stragglers uint64
	// Chunks counts runs of a chunk's symbols begun; Unavailable the reads that failed.
	Chunks, Unavailable uint64
	// SendErrors counts packets that the kernel refused.
	SendErrors uint64
	// Queued is how many chunks are waiting to be sent now.
	Queued int
}

// ReceiveStats counts what a receiver did.
type ReceiveStats struct {
	// Packets and Bytes of the session arrived and were believed, IP and UDP
	// headers included.
	Packets, Bytes uint64
	// Rejected packets were malformed, forged or foreign, Foreign of them of
	// another session or epoch; Replayed ones were authentic but seen before
	// or too old.
	Rejected, Foreign, Replayed uint64
	// Symbols were taken into an assembly; Duplicates were there already or
	// came after the chunk was complete; Dropped found no room.
	Symbols, Duplicates, Dropped uint64
	// Chunks and ChunkBytes (encoded) were delivered.
	Chunks, ChunkBytes uint64
	// RepairBytes is the payload of parity symbols taken into an assembly.
	RepairBytes uint64
	// Requests and Reports were sent.
	Requests, Reports uint64
	// Bad chunks were delivered but not the image's; Unavailable ones the
	// sender could not read.
	Bad, Unavailable uint64
	// Refreshes of the channel were asked for.
	Refreshes uint64
	// BufferDrops is how many times the kernel dropped a packet, or several it
	// had put together, since the socket's buffer was full.
	BufferDrops uint64
}
