package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"huck/imager/api"
	"huck/imager/intake"
	"huck/imager/origin"
	"huck/imager/personal"
)

const (
	// maxInventory and maxReport bound the body of a request, in bytes: 256
	// disks, 256 events.
	maxInventory = 256 << 10
	maxReport    = 4 << 20
	maxAssign    = personal.MaxDocument + 64<<10
	// readTime is what a client may take to send a body, answerTime to take a
	// short answer.
	readTime   = 20 * time.Second
	answerTime = 20 * time.Second
)

// errBody is wrapped for a body that cannot be read or is no JSON.
var errBody = errors.New("web: request body")

// readJSON reads a body of at most max bytes into v.
func readJSON(w http.ResponseWriter, r *http.Request, max int64, v any) error {
	// By hand rather than http.Server.ReadTimeout, which would end a long poll.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(readTime))
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, max)).Decode(v); err != nil {
		return fmt.Errorf("%w: %w", errBody, err)
	}
	return nil
}

func (s *server) register(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, readTime+answerTime)
	var inv api.Inventory
	if err := readJSON(w, r, maxInventory, &inv); err != nil {
		s.fail(w, r, err)
		return
	}
	if inv.Address == "" {
		if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			inv.Address = ap.Addr().Unmap().String()
		}
	}
	reg, err := s.Nodes.Register(r.Context(), inv)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.Log.Info("web: registered", "node", reg.Node, "addr", inv.Address, "known", reg.Known)
	origin.WriteJSON(w, http.StatusOK, reg)
}

// assignment answers at once, or with ?after=SERIAL when the serial is another
// one or api.LongPoll has passed.
func (s *server) assignment(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, api.LongPoll+answerTime)
	after, hold, err := parseAfter(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	timeout := time.NewTimer(api.LongPoll)
	defer timeout.Stop()
	for {
		a, changed, err := s.Nodes.Assignment(r.Context(), r.PathValue("node"))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if !hold || a.Serial != after {
			w.Header().Set("Cache-Control", "no-store")
			origin.WriteJSON(w, http.StatusOK, a)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			hold = false
		case <-r.Context().Done(): // the client left, or we are shutting down
			hold = false
		}
		if r.Context().Err() != nil {
			origin.WriteError(w, http.StatusServiceUnavailable, "internal", errors.New("web: the server shuts down"))
			return
		}
	}
}

func parseAfter(r *http.Request) (after uint64, hold bool, err error) {
	s := r.URL.Query().Get("after")
	if s == "" {
		return 0, false, nil
	}
	if after, err = strconv.ParseUint(s, 10, 64); err != nil {
		return 0, false, fmt.Errorf("%w: after=%.40q is no serial", errBody, s)
	}
	return after, true, nil
}

// capturing passes requests on of a node that was told to capture its disk.
func (s *server) capturing(h intake.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		job, err := s.Nodes.CaptureJob(r.PathValue("node"))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		h(w, r, job)
	}
}

// personality answers with what makes the node's system its own, private keys
// included. It is not to stay in any cache.
func (s *server) personality(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, sendTime)
	p, err := s.Nodes.Personality(r.Context(), r.PathValue("node"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	origin.WriteJSON(w, http.StatusOK, p)
}

func (s *server) report(w http.ResponseWriter, r *http.Request) {
	setWriteDeadline(w, readTime+answerTime)
	var list []api.Event
	err := readJSON(w, r, maxReport, &list)
	if err == nil {
		setClock(list, r.Header.Get(api.HeaderClock), time.Now())
		err = s.Nodes.Report(r.Context(), r.PathValue("node"), list)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// setClock turns the events' times, which are by the clock of a node that said
// sent when it sent them, into our own. A node that does not say is believed.
func setClock(list []api.Event, sent string, now time.Time) {
	t, err := time.Parse(time.RFC3339Nano, sent)
	if err != nil {
		return
	}
	for i := range list {
		list[i].Time = list[i].Time.Add(now.Sub(t))
	}
}
