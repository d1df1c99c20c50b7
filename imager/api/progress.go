package api

import (
	"fmt"
	"strings"
	"time"
)

// Progress of an installation, in bytes of decoded chunks unless said
// otherwise.
type Progress struct {
	// Total is the image's used bytes.
	Total int64 `json:"total"`
	// Planned have been compared with the disk, InPlace were found there.
	Planned int64 `json:"planned"`
	InPlace int64 `json:"in_place"`
	// Written are on the disk or, one region of a chunk, in line for it.
	Written int64 `json:"written"`
	// Received counts encoded bytes by transport: multicast, http, store.
	Received map[string]int64 `json:"received,omitempty"`
	// Rate is how much of the image is done a second, of late; 0 if not known.
	Rate int64 `json:"rate,omitempty"`
}

// Percent is how much of the image is on the disk, 0 to 100.
func (p Progress) Percent() int64 {
	if p.Total <= 0 {
		return 100
	}
	return min(100, 100*(p.InPlace+p.Written)/p.Total)
}

// Left is how long the rest takes at the present rate; negative if nobody knows.
func (p Progress) Left() time.Duration {
	rest := p.Total - p.InPlace - p.Written
	switch {
	case rest <= 0:
		return 0
	case p.Rate <= 0 || rest/p.Rate > 1e6:
		return -1
	}
	return time.Duration(rest/p.Rate) * time.Second
}

// Via tells what came by which transport so far: "multicast 20.0 MiB, http 1.0 MiB".
func (p Progress) Via() string {
	var s []string
	for _, via := range transports {
		if n := p.Received[via]; n > 0 {
			s = append(s, fmt.Sprintf("%s %.1f MiB", via, float64(n)/(1<<20)))
		}
	}
	return strings.Join(s, ", ")
}

// transports are the names in Received, the usual one first.
var transports = []string{"multicast", "http", "bittorrent", "store"}

// String tells it as the console and the lists do: "40% of 100 MiB at 5.0 MiB/s,
// 12s left, compared 50%, in place 10%, multicast 20.0 MiB".
func (p Progress) String() string {
	s := fmt.Sprintf("%d%% of %d MiB", p.Percent(), p.Total>>20)
	if p.Rate > 0 {
		s += fmt.Sprintf(" at %.1f MiB/s", float64(p.Rate)/(1<<20))
	}
	if left := p.Left(); left > 0 {
		s += fmt.Sprintf(", %v left", left)
	}
	if p.Planned > 0 && p.Total > 0 {
		s += fmt.Sprintf(", compared %d%%, in place %d%%", 100*p.Planned/p.Total, 100*p.InPlace/p.Total)
	}
	if via := p.Via(); via != "" {
		s += ", " + via
	}
	return s
}
