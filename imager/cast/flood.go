package cast

import (
	"net/netip"
	"time"
)

const (
	// floodRate is how many packets a second one address may send to the
	// request socket, ten times what a receiver does, since there may be
	// several on a host, and floodBurst how many at once.
	floodRate  = 500
	floodBurst = 500
	// maxSources bounds the addresses remembered, to about 256 KiB.
	maxSources = 4096
)

// floodgate is a token bucket for every address that packets come from.
type floodgate struct {
	until map[netip.Addr]time.Time // when what came is paid for
}

func newFloodgate() floodgate {
	return floodgate{until: make(map[netip.Addr]time.Time)}
}

// admit takes a token of an address; false is that it has none left.
func (g *floodgate) admit(now time.Time, from netip.Addr) bool {
	until, known := g.until[from]
	if !known && len(g.until) >= maxSources {
		for any := range g.until { // it starts with a full bucket next time
			delete(g.until, any)
			break
		}
	}
	if earliest := now.Add(-floodBurst * time.Second / floodRate); until.Before(earliest) {
		until = earliest
	}
	if until.After(now) {
		return false
	}
	g.until[from] = until.Add(time.Second / floodRate)
	return true
}
