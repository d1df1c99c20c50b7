package cast

import (
	"container/list"

	"huck/imager/api"
	"huck/imager/cast/protocol"
)

// peers knows the receivers that have sent requests lately: their keys and
// which of their packets were seen.
type peers struct {
	channel api.Channel
	known   map[uint64]*list.Element
	order   *list.List // of *peer, heard last in front
}

type peer struct {
	id   uint64
	key  *protocol.Key
	seen protocol.Window
}

// maxPeers bounds the receivers remembered (about 1 KiB each). The request of
// a forgotten one could be replayed, which costs symbols, nothing else.
const maxPeers = 16384

func newPeers(ch api.Channel) peers {
	return peers{channel: ch, known: make(map[uint64]*list.Element), order: list.New()}
}

// open returns the request in packet if it is authentic, of this session and
// epoch, new, and has seen no more than the counter sent. Entries are
// appended to buf[:0].
func (p *peers) open(packet []byte, sent uint64, buf []protocol.Entry) (protocol.Request, bool) {
	none := protocol.Request{Want: buf}
	h, body, err := protocol.ParseHeader(packet)
	if err != nil || h.Type != protocol.TypeRequest || h.Session != p.channel.Session || h.Epoch != p.channel.Epoch {
		return none, false
	}
	id, err := protocol.ParseReceiver(body)
	if err != nil {
		return none, false
	}
	var from *peer
	e := p.known[id]
	if e != nil {
		from = e.Value.(*peer)
	} else {
		key, err := protocol.ReceiverKey(p.channel.Secret, p.channel.Session, id)
		if err != nil {
			return none, false
		}
		from = &peer{id: id, key: key}
	}
	if !from.key.Open(packet) || !from.seen.See(h.Counter) {
		return none, false
	}
	p.remember(e, from)
	req, err := protocol.ParseRequest(body, buf)
	if err != nil || req.Seen > sent {
		return none, false
	}
	return req, true
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
