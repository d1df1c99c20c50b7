package cast

import (
	"sort"
	"time"
)

const (
	// historyGrain is the least time between two marks: as exact as a timer
	// wakes, and far below the time that a report covers.
	historyGrain = time.Millisecond
	// historySize is how many marks are kept: 8 s at least, longer than the
	// longest time between two reports.
	historySize = 1 << 13
)

// history remembers when which packets were sent, so that a receiver need not
// say more than counters.
type history struct {
	marks []mark // a ring once it is full, the oldest at at
	at    int
	last  mark
}

// mark says that the packets above counter were sent from time on, up to the
// next mark.
type mark struct {
	counter uint64
	bytes   uint64 // sent in all before
	time    time.Time
}

// note is told of every packet before it is sent: the counter and bytes so far.
func (h *history) note(now time.Time, counter, bytes uint64) {
	if !h.last.time.IsZero() && now.Sub(h.last.time) < historyGrain {
		return
	}
	h.last = mark{counter, bytes, now}
	if len(h.marks) < historySize {
		h.marks = append(h.marks, h.last)
		return
	}
	h.marks[h.at] = h.last
	h.at = (h.at + 1) % historySize
}

// find returns the mark that the packet with that counter was sent under; false
// if it is forgotten or was not sent.
func (h *history) find(counter uint64) (mark, bool) {
	n := len(h.marks)
	i := sort.Search(n, func(i int) bool { return h.marks[(h.at+i)%n].counter >= counter })
	if i == 0 {
		return mark{}, false
	}
	return h.marks[(h.at+i-1)%n], true
}
