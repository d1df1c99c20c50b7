package cast

import (
	"container/list"
	"time"

	"huck/imager/api"
	"huck/imager/cast/protocol"
)

// peers knows the receivers that were heard lately: their keys and which of
// their packets were seen.
type peers struct {
	channel api.Channel
	known   map[uint64]*list.Element
	order   *list.List // of *peer, heard last in front
}

type peer struct {
	id    uint64
	key   *protocol.Key
	seen  protocol.Window
	heard time.Time
	// present peers count as members of the group.
	present bool
	// told is when the peer was last told to leave.
	told time.Time
}

// maxPeers bounds the receivers remembered (about 1 KiB each). The request of
// a forgotten one could be replayed, which costs symbols, nothing else.
const maxPeers = 16384

func newPeers(ch api.Channel) peers {
	return peers{channel: ch, known: make(map[uint64]*list.Element), order: list.New()}
}

// open returns the body of a request or report, and whom it is from, if it is
// authentic, of this session and epoch, and new.
func (p *peers) open(now time.Time, packet []byte) (*peer, protocol.Type, []byte, bool) {
	h, body, err := protocol.ParseHeader(packet)
	if err != nil || h.Type != protocol.TypeRequest && h.Type != protocol.TypeReport ||
		h.Session != p.channel.Session || h.Epoch != p.channel.Epoch {
		return nil, 0, nil, false
	}
	id, err := protocol.ParseReceiver(body)
	if err != nil {
		return nil, 0, nil, false
	}
	var from *peer
	e := p.known[id]
	if e != nil {
		from = e.Value.(*peer)
	} else {
		key, err := protocol.ReceiverKey(p.channel.Secret, p.channel.Session, id)
		if err != nil {
			return nil, 0, nil, false
		}
		from = &peer{id: id, key: key}
	}
	if !from.key.Open(packet) || !from.seen.See(h.Counter) {
		return nil, 0, nil, false
	}
	from.heard = now
	p.remember(e, from)
	return from, h.Type, body, true
}

func (p *peers) remember(e *list.Element, from *peer) {
	if e != nil {
		p.order.MoveToFront(e)
		return
	}
	p.known[from.id] = p.order.PushFront(from)
	if p.order.Len() > maxPeers {
		delete(p.known, p.order.Remove(p.order.Back()).(*peer).id)
	}
}

// census counts the peers heard since, and returns those that have gone.
func (p *peers) census(since time.Time) (present int, gone []uint64) {
	for e := p.order.Front(); e != nil; e = e.Next() {
		switch q := e.Value.(*peer); {
		case q.heard.After(since):
			q.present = true
			present++
		case q.present:
			q.present = false
			gone = append(gone, q.id)
		default:
			return present, gone // the others were heard before this one
		}
	}
	return present, gone
}
