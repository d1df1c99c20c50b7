package api

import (
	"net/netip"
	"time"

	"huck/imager/image"
)

// Paths of an image origin (`imager send` and the boot server alike). REF and
// ID are path-escaped.
//
//	GET /v1/refs/REF               → Resolved
//	GET /v1/images/DIGEST/manifest → the manifest's bytes
//	GET /v1/images/DIGEST/map      → the chunk map, compressed
//	GET /v1/images/DIGEST/chunks/N → the encoded chunk with number N (decimal, image.Layout)
//	GET /v1/images/DIGEST/channel  → Channel
const (
	PathRefs   = "/v1/refs/"
	PathImages = "/v1/images/"
)

// Resolved is the answer to a reference.
type Resolved struct {
	Ref    string   `json:"ref"`
	Digest image.ID `json:"digest"`
	// EncodedBytes is what all of the image's chunks take on the way.
	EncodedBytes int64 `json:"encoded_bytes"`
}

// Channel tells a receiver how to join an image's multicast channel. It is
// secret: whoever holds it can forge packets of this session.
type Channel struct {
	// Group is the multicast group and UDP port that data goes to.
	Group netip.AddrPort `json:"group"`
	// Sender is where requests go; an unspecified address stands for the host
	// that answered this HTTP request.
	Sender netip.AddrPort `json:"sender"`
	// Session identifies the session in every packet.
	Session uint32 `json:"session"`
	// Epoch is the sender's present start, see PROTOCOL.md. Receivers ask for
	// the channel again when they meet another.
	Epoch uint32 `json:"epoch"`
	// Secret is 32 bytes that both directions' keys are derived from.
	Secret []byte `json:"secret"`
	// SymbolSize is the payload of a full data packet in bytes.
	SymbolSize int `json:"symbol_size"`
}

// Error is the JSON body of every answer that is not 2xx.
type Error struct {
	// Code is a word for programs: "not_found", "corrupt", "unauthorized",
	// "bad_request", "internal".
	Code string `json:"code"`
	// Message is for people.
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Header names shared by clients and handlers.
const (
	// HeaderAuth carries "Bearer TOKEN" with the node's token.
	HeaderAuth = "Authorization"
	// HeaderClock carries the sender's present time (RFC 3339) beside times of
	// its own in a request's body. A machine's clock is often wrong at start;
	// the server moves those times by the difference to its own.
	HeaderClock = "Huck-Clock"
)

// LongPoll is the longest a server holds a request that waits for news.
const LongPoll = 50 * time.Second
