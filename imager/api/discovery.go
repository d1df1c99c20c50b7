package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
)

// Discovery is how an appliance that was told no server finds one on its own
// link: it sends a question by multicast, every boot server answers by unicast
// with its URL. bootserver/BOOTING.md has the bytes.
const (
	// DiscoveryPort is the UDP port of both groups.
	DiscoveryPort = 8480
	// discoverySize is what every question has, in bytes, and no answer
	// exceeds: whoever forges a sender's address gains nothing by it.
	discoverySize = 256
	// discoveryHeader is what comes before the URL.
	discoveryHeader = 24
	// MaxDiscoveryURL is the longest URL that fits into an answer, in bytes.
	MaxDiscoveryURL = discoverySize - discoveryHeader

	discoveryVersion  = 1
	discoveryQuestion = "HKD?"
	discoveryAnswer   = "HKD!"
)

// DiscoveryGroup4 and DiscoveryGroup6 are where questions go: a group of the
// administratively scoped block (RFC 2365 section 6.1, local scope) and a
// transient one of the link (RFC 4291 section 2.7, flag T).
func DiscoveryGroup4() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 72, 75}), DiscoveryPort)
}

// DiscoveryGroup6 is the group for IPv6; the zone is the caller's to add.
func DiscoveryGroup6() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("ff12::4855:434b"), DiscoveryPort)
}

// ErrDiscovery is wrapped for bytes that are no message of this protocol.
var ErrDiscovery = errors.New("api: not a discovery message")

// DiscoveryNonce tells the answers to one question from all others.
type DiscoveryNonce [16]byte

// AppendDiscoveryQuestion appends a question.
func AppendDiscoveryQuestion(b []byte, nonce DiscoveryNonce) []byte {
	b = appendDiscovery(b, discoveryQuestion, 0, nonce)
	return append(b, make([]byte, discoverySize-discoveryHeader)...)
}

// AppendDiscoveryAnswer appends the answer to the question with that nonce.
func AppendDiscoveryAnswer(b []byte, nonce DiscoveryNonce, server *url.URL) ([]byte, error) {
	text := server.String()
	if len(text) > MaxDiscoveryURL {
		return b, fmt.Errorf("api: server URL of %d bytes, a discovery answer holds %d", len(text), MaxDiscoveryURL)
	}
	return append(appendDiscovery(b, discoveryAnswer, len(text), nonce), text...), nil
}

//	0         4        5         6          8           24
//
// ┌─────────┬────────┬─────────┬──────────┬───────────┬─────┐
// │ HKD? / !│ version│ 0       │ URL bytes│ nonce     │ URL │
// └─────────┴────────┴─────────┴──────────┴───────────┴─────┘
func appendDiscovery(b []byte, magic string, urlBytes int, nonce DiscoveryNonce) []byte {
	b = append(append(b, magic...), discoveryVersion, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(urlBytes))
	return append(b, nonce[:]...)
}

// ParseDiscoveryQuestion returns a question's nonce.
func ParseDiscoveryQuestion(b []byte) (nonce DiscoveryNonce, err error) {
	if len(b) != discoverySize {
		return nonce, fmt.Errorf("%w: question of %d bytes", ErrDiscovery, len(b))
	}
	_, nonce, err = parseDiscovery(b, discoveryQuestion)
	return nonce, err
}

// ParseDiscoveryAnswer returns an answer's nonce and the server's URL, which
// is http or https, has a host and nothing behind it.
func ParseDiscoveryAnswer(b []byte) (nonce DiscoveryNonce, server *url.URL, err error) {
	n, nonce, err := parseDiscovery(b, discoveryAnswer)
	if err != nil {
		return nonce, nil, err
	}
	text := b[discoveryHeader:]
	if n != len(text) || n > MaxDiscoveryURL {
		return nonce, nil, fmt.Errorf("%w: URL of %d bytes in a message of %d", ErrDiscovery, n, len(b))
	}
	server, err = ParseServerURL(string(text))
	return nonce, server, err
}

func parseDiscovery(b []byte, magic string) (urlBytes int, nonce DiscoveryNonce, err error) {
	if len(b) < discoveryHeader || string(b[:4]) != magic || b[4] != discoveryVersion {
		return 0, nonce, fmt.Errorf("%w: %d bytes", ErrDiscovery, len(b))
	}
	return int(binary.BigEndian.Uint16(b[6:])), DiscoveryNonce(b[8:discoveryHeader]), nil
}
