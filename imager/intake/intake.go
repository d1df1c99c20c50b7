// Package intake takes images from machines that capture their own disks, over
// HTTP: the server's side is Server, the machine's Client, which stands for a
// store towards package capture. api.PathCapture is the protocol.
package intake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"huck/imager/image"
	"huck/imager/store"
)

const (
	// idle is how long a session lives without a word of its node, which may be
	// starting again after a power cut. Until then no gc runs.
	idle = 30 * time.Minute
	// tidy is how often idle sessions are looked for.
	tidy = time.Minute
)

// CodeGone is the api.Error.Code of a session that is no more.
const CodeGone = "gone"

// errGone is wrapped for a session that is no more.
var errGone = errors.New("intake: this session is no more; begin anew")

// errBad is wrapped for what a client should not have sent.
var errBad = errors.New("intake")

// Job is what a node was told to capture.
type Job struct {
	Node string
	// Name is the image's name: the server's word, not the node's.
	Name string
	// Serial tells one order to the node from the next.
	Serial uint64
}

// labels mark the tag, so that a node that did not hear of it finds it again.
func (j Job) labels() map[string]string {
	return map[string]string{"node": j.Node, "capture": strconv.FormatUint(j.Serial, 10)}
}

// Server keeps the sessions. Its methods are safe for concurrent use.
type Server struct {
	store store.WriteStore
	log   *slog.Logger
	pool  sync.Pool // of *verifier

	mu       sync.Mutex
	sessions map[string]*session // by node

	tagging sync.Mutex
}

// verifier is what it takes to verify a chunk.
type verifier struct {
	dec     *image.Decoder
	in, out []byte
}

// New returns a server that puts images into a store.
func New(st store.WriteStore, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{store: st, log: log, sessions: map[string]*session{}}
	s.pool.New = func() any {
		return &verifier{image.NewDecoder(), make([]byte, image.RegionSize+1), make([]byte, image.RegionSize)}
	}
	return s
}

// Run closes sessions whose nodes have fallen silent, and all when ctx ends.
func (s *Server) Run(ctx context.Context) error {
	t := time.NewTicker(tidy)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.drop(func(se *session) bool { return se.silent() > idle })
		case <-ctx.Done():
			s.drop(func(*session) bool { return true })
			return nil
		}
	}
}

// drop closes the sessions that match says.
func (s *Server) drop(match func(*session) bool) {
	var out []*session
	s.mu.Lock()
	for node, se := range s.sessions {
		if match(se) {
			out = append(out, se)
			delete(s.sessions, node)
		}
	}
	s.mu.Unlock()
	for _, se := range out { // without the lock: they write
		if err := se.close(); err != nil {
			s.log.Warn("intake: chunks of an unfinished capture are lost", "node", se.job.Node, "err", err)
		}
	}
}

// begin returns the session of a job, which is made if there is none.
func (s *Server) begin(ctx context.Context, job Job) (*session, error) {
	s.drop(func(se *session) bool {
		return se.job.Node == job.Node && (se.job != job || se.spent() || se.finished())
	})
	s.mu.Lock()
	if se := s.sessions[job.Node]; se != nil {
		s.mu.Unlock()
		return se, nil
	}
	s.mu.Unlock()
	// Its life is longer than the request's.
	w, err := s.store.NewWriter(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	se := &session{id: rand.Text(), job: job, w: w, last: time.Now()}
	s.mu.Lock()
	other := s.sessions[job.Node]
	if other == nil {
		s.sessions[job.Node] = se
	}
	s.mu.Unlock()
	if other != nil { // another request was faster
		return other, se.close()
	}
	s.log.Info("intake: a node captures its disk", "node", job.Node, "image", job.Name)
	return se, nil
}

// use returns a session for the time until done is called.
func (s *Server) use(job Job, id string) (se *session, done func(), err error) {
	s.mu.Lock()
	se = s.sessions[job.Node]
	s.mu.Unlock()
	if se == nil || se.id != id || se.job != job {
		return nil, nil, errGone
	}
	se.using.RLock()
	if se.closed {
		se.using.RUnlock()
		return nil, nil, errGone
	}
	se.touch()
	return se, func() { se.touch(); se.using.RUnlock() }, nil
}

// session is one capture under way.
type session struct {
	id  string
	job Job
	w   store.Writer

	using  sync.RWMutex // held shared by requests
	closed bool

	mu   sync.Mutex
	last time.Time
	bad  bool // the writer has failed
	done bool // the image is tagged, and the writer closed
}

func (se *session) touch() {
	se.mu.Lock()
	defer se.mu.Unlock()
	se.last = time.Now()
}

func (se *session) silent() time.Duration {
	se.mu.Lock()
	defer se.mu.Unlock()
	return time.Since(se.last)
}

func (se *session) spent() bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.bad
}

// finish lets gc run, once the tag holds on to the chunks.
func (se *session) finish() error {
	se.mu.Lock()
	se.done = true
	se.mu.Unlock()
	return se.w.Close()
}

func (se *session) finished() bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.done
}

// failed notes an error of the writer, which is spent by it.
func (se *session) failed(err error) error {
	if err != nil {
		se.mu.Lock()
		se.bad = true
		se.mu.Unlock()
	}
	return err
}

// close waits for the requests under way, keeps what was put, and lets gc run.
func (se *session) close() error {
	se.using.Lock()
	defer se.using.Unlock()
	if se.closed {
		return nil
	}
	se.closed = true
	if se.finished() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := se.w.Flush(ctx)
	if cerr := se.w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("intake: %w", err)
	}
	return nil
}
