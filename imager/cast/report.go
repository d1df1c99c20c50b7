package cast

import (
	"math"
	"time"

	"huck/imager/cast/protocol"
)

const (
	// surge is by how much the part of packets lost has to grow for a report
	// ahead of its time, surgePackets of how many at least, and surgeGap the
	// least time since the last report.
	surge        = 0.1
	surgePackets = 64
	surgeGap     = reportGap / 2
	// surgers is about how many receivers of a group look out for a surge, the
	// size up to which all report every reportGap. What surges for everybody some
	// of them see, and what for one alone the next due report tells.
	surgers = 40
	// lagTime is how long a sink has to lag for its rate to be told.
	lagTime = reportGap
)

// reporting counts what a receiver reports: a stretch of the sender's packets
// up to the last one, which began with the last report or, where reports are
// rare, one to two reportGaps ago, since the sender's rate may have changed.
type reporting struct {
	every time.Duration // as announced; 0 is never
	next  time.Time     // when the next report is due; zero is undecided
	// total packets came; the last had the counter last.
	total  uint64
	last   uint64
	lastAt time.Time
	start  stretch
	middle stretch // where the next stretch may begin
	rate   int64   // announced when the last report was made
	lost   float64 // the part lost then
	alert  bool    // this stretch may be told of sooner
	// The sink, while it lags.
	lagSince time.Time
	taken    int // encoded bytes since
	sink     int64
}

// stretch is where a stretch of packets begins: after the one with that
// counter, when total packets had come.
type stretch struct {
	counter, total uint64
	at             time.Time
}

// packet notes a packet that was believed.
func (p *reporting) packet(now time.Time, counter uint64) {
	p.total++
	if counter > p.last {
		p.last, p.lastAt = counter, now
	}
	if p.start.counter == 0 {
		p.start = stretch{counter, p.total, now}
		p.middle = p.start
	}
}

// roll lets the stretch begin later when it has become long.
func (p *reporting) roll(now time.Time) {
	if p.middle.counter > 0 && now.Sub(p.middle.at) >= reportGap {
		p.start = p.middle
		p.middle = stretch{p.last, p.total, p.lastAt}
	}
}

// delivered notes that the sink took n encoded bytes and has backlog more to
// take.
func (p *reporting) delivered(now time.Time, n, backlog int) {
	if backlog < lagging {
		p.lagSince, p.sink = time.Time{}, 0
		return
	}
	if p.lagSince.IsZero() {
		p.lagSince, p.taken = now, 0
		return
	}
	p.taken += n
	if d := now.Sub(p.lagSince); d >= lagTime {
		p.sink = int64(float64(p.taken) * 8 / d.Seconds())
		p.lagSince, p.taken = now, 0
	}
}

// loss is the part of the stretch's packets that did not come.
func (p *reporting) loss() float64 {
	return max(0, 1-float64(p.total-p.start.total)/float64(max(p.last-p.start.counter, 1)))
}

// reportDue reports that it is time for a report: as often as the sender wants
// them, the first at a random moment, or sooner when suddenly much more gets
// lost, unless somebody else's report has slowed the sender since.
func (r *Receiver) reportDue(now time.Time) bool {
	p := &r.reporting
	if p.every == 0 {
		return false
	}
	if p.next.IsZero() {
		p.next = now.Add(r.jitter(p.every))
		p.alert = r.alert()
	}
	if p.every > reportGap {
		p.roll(now)
	}
	if p.last <= p.start.counter {
		return false
	}
	if !now.Before(p.next) {
		return true
	}
	if !p.alert {
		return false
	}
	slowed := float64(r.rate) < float64(p.rate)*(1-rateStep)
	return !slowed && now.Sub(p.start.at) >= surgeGap && p.last-p.start.counter >= surgePackets && p.loss() > p.lost+surge
}

// alert draws whether this receiver is one of the surgers.
func (r *Receiver) alert() bool { return r.rnd.Float64()*math.Exp2(float64(r.members)) < surgers }

// report appends a report of the present stretch.
func (r *Receiver) report(now time.Time, buf []byte) []byte {
	p := &r.reporting
	q := protocol.Report{
		Receiver: r.id,
		First:    p.start.counter,
		Last:     p.last,
		Received: uint32(min(p.total-p.start.total, math.MaxUint32)),
		Elapsed:  min(p.lastAt.Sub(p.start.at), protocol.MaxElapsed),
		Age:      min(max(now.Sub(p.lastAt), 0), protocol.MaxElapsed),
		Sink:     uint32(min(r.sinkRate(), math.MaxUint32)),
	}
	p.lost, p.rate, p.alert = p.loss(), r.rate, r.alert()
	p.start = stretch{p.last, p.total, p.lastAt}
	p.middle = p.start
	p.next = now.Add(p.every)
	r.stats.Reports++
	at := len(buf)
	return r.key.Seal(must(q.AppendBinary(r.header(protocol.TypeReport, buf))), at)
}

// sinkRate is what the sink takes, in kbit/s of packets with full symbols, 0 if
// it does not lag.
func (r *Receiver) sinkRate() int64 {
	s := float64(r.channel.SymbolSize)
	return int64(float64(r.reporting.sink) * (s + protocol.DataSize + float64(r.overhead)) / s / 1000)
}
