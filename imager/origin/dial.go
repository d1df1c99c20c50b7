package origin

import (
	"context"
	"net"
	"time"
)

const (
	// attemptDelay is how long a connection attempt is alone: the Connection
	// Attempt Delay of RFC 8305 section 5, and as long as a channel waits for
	// newcomers.
	attemptDelay = 250 * time.Millisecond
	// maxAttempts bounds those under way.
	maxAttempts = 4
)

// Dial is what connects, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Hedged returns a Dial that makes another attempt beside those that take long,
// and returns the first connection. The first packet of one is sent again only
// after a second if it gets lost (RFC 6298 section 2), and by then a group of
// machines that were switched on together has gone ahead without this one.
func (d Dial) Hedged() Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		type result struct {
			conn net.Conn
			err  error
		}
		results := make(chan result)
		attempt := func() {
			conn, err := d(ctx, network, address)
			results <- result{conn, err}
		}
		timer := time.NewTicker(attemptDelay)
		defer timer.Stop()
		var first result // success, or else failure
		go attempt()
		for made, ended := 1, 0; ended < made; {
			select {
			case <-timer.C:
				if made < maxAttempts && ended == 0 {
					made++
					go attempt()
				}
			case r := <-results:
				if ended++; ended == 1 || first.err != nil && r.err == nil {
					first = r
				} else if r.err == nil {
					r.conn.Close() // not used
				}
				if r.err == nil {
					cancel()
				}
			}
		}
		cancel()
		return first.conn, first.err
	}
}
