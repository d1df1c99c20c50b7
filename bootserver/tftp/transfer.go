package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// transfer sends one file to one client, from a socket of its own.
type transfer struct {
	conn *net.UDPConn // connected
	peer netip.AddrPort
	name string
	file io.ReaderAt
	size int64
	terms
	// cancel ends it from outside; begun is closed when the client has answered.
	cancel context.CancelFunc
	begun  chan struct{}
}

var errTimeout = errors.New("the client does not answer")

// run sends the file until the client has it all, gives up, or is silent, or
// ctx ends. It returns the bytes that arrived.
func (t *transfer) run(ctx context.Context) (int64, error) {
	stop := context.AfterFunc(ctx, func() { t.conn.Close() })
	defer stop()
	if len(t.accepted) > 0 {
		if err := t.offer(ctx); err != nil {
			return 0, err
		}
	}
	w := newWindow(t.size, t.terms)
	packet := make([]byte, 4+t.block)
	for !w.done() {
		for n := w.take(); n != 0; n = w.take() {
			if err := t.send(packet, n); err != nil {
				return w.acked * int64(t.block), t.cause(ctx, err)
			}
		}
		number, err := t.answer(w.wait(t.timeout))
		switch {
		case err == nil:
			w.ack(number)
			t.hasBegun()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return w.acked * int64(t.block), t.cause(ctx, err)
		case !w.expired():
			return w.acked * int64(t.block), errTimeout
		}
	}
	return t.size, nil
}

// offer sends the OACK until block 0 is acknowledged (RFC 2347).
func (t *transfer) offer(ctx context.Context) error {
	oack := appendOptions(nil, t.accepted)
	for try := range firstRetries + 1 {
		if _, err := t.conn.Write(oack); err != nil {
			return t.cause(ctx, err)
		}
		deadline := time.Now().Add(t.timeout << min(try, 3))
		for {
			number, err := t.answer(time.Until(deadline))
			if err == nil && number == 0 {
				t.hasBegun()
				return nil
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return t.cause(ctx, err)
			}
		}
	}
	return errTimeout
}

// send sends block n, which it reads into packet.
func (t *transfer) send(packet []byte, n int64) error {
	offset := (n - 1) * int64(t.block)
	data := packet[4 : 4+min(int64(t.block), t.size-offset)]
	if got, err := t.file.ReadAt(data, offset); got < len(data) {
		return fmt.Errorf("read %s: %w", t.name, err)
	}
	binary.BigEndian.PutUint16(packet, opData)
	binary.BigEndian.PutUint16(packet[2:], uint16(n))
	_, err := t.conn.Write(packet[:4+len(data)])
	return err
}

// answer waits for an acknowledgement.
func (t *transfer) answer(wait time.Duration) (uint16, error) {
	if err := t.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	buf := make([]byte, 512)
	for {
		n, err := t.conn.Read(buf)
		if err != nil {
			return 0, err
		}
		number, ok, err := parseAnswer(buf[:n])
		if ok || err != nil {
			return number, err
		}
	}
}

func (t *transfer) hasBegun() {
	select {
	case <-t.begun:
	default:
		close(t.begun)
	}
}

// cause says in place of an error of the socket that it was closed, why.
func (t *transfer) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
