package intake

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/origin"
	"huck/imager/store"
)

const (
	// maxManifest and maxMap bound an image's parts in bytes: 4096 partitions,
	// and the map of 16 Mi regions that does not compress.
	maxManifest = 16 << 20
	maxMap      = 1 << 30
	// shortTime is what a small request may take, longTime one with a chunk map
	// or that waits for the disk.
	shortTime = time.Minute
	longTime  = 10 * time.Minute
)

// Handler serves one request of a job.
type Handler func(w http.ResponseWriter, r *http.Request, job Job)

// Routes are the handlers by method and path below a node's. Who serves them
// has checked the token and found the job.
func (s *Server) Routes() map[string]Handler {
	const session = api.PathCapture + "/{session}/"
	return map[string]Handler{
		"POST " + api.PathCapture:        s.serveBegin,
		"POST " + session + "ask":        s.in(s.serveAsk, shortTime),
		"PUT " + session + "chunks/{id}": s.in(s.serveChunk, shortTime),
		"POST " + session + "flush":      s.in(s.serveFlush, longTime),
		"PUT " + session + "image":       s.in(s.serveImage, longTime),
		"POST " + session + "tag":        s.in(s.serveTag, longTime),
	}
}

func (s *Server) serveBegin(w http.ResponseWriter, r *http.Request, job Job) {
	limit(w, shortTime)
	se, err := s.begin(r.Context(), job)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	origin.WriteJSON(w, http.StatusOK, api.CaptureSession{Session: se.id})
}

// in hands a handler its session, bounds its time, and answers what it returns:
// nil is 204.
func (s *Server) in(do func(http.ResponseWriter, *http.Request, *session) (any, error), d time.Duration) Handler {
	return func(w http.ResponseWriter, r *http.Request, job Job) {
		limit(w, d)
		se, done, err := s.use(job, r.PathValue("session"))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		defer done()
		// A request that follows on the connection has its own time.
		defer func() { _ = http.NewResponseController(w).SetReadDeadline(time.Time{}) }()
		answer, err := do(w, r, se)
		switch {
		case err != nil:
			s.fail(w, r, err)
		case answer == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			origin.WriteJSON(w, http.StatusOK, answer)
		}
	}
}

// limit bounds the time for reading the body and writing the answer. A writer
// without deadlines is a test's.
func limit(w http.ResponseWriter, d time.Duration) {
	rc, at := http.NewResponseController(w), time.Now().Add(d)
	_ = rc.SetReadDeadline(at)
	_ = rc.SetWriteDeadline(at)
}

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBad}, a...)...)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var large *http.MaxBytesError
	var chunk *image.ChunkError
	switch {
	case errors.Is(err, errGone):
		origin.WriteError(w, http.StatusGone, CodeGone, err)
	case errors.As(err, &large):
		origin.WriteError(w, http.StatusRequestEntityTooLarge, "bad_request", err)
	case errors.Is(err, errBad), errors.As(err, &chunk), errors.Is(err, image.ErrFormat), errors.Is(err, store.ErrNotFound):
		origin.WriteError(w, http.StatusBadRequest, "bad_request", err)
	default:
		s.log.Error("intake: request failed", "path", r.URL.Path, "peer", r.RemoteAddr, "err", err)
		origin.WriteError(w, http.StatusInternalServerError, "internal", err)
	}
}

func (s *Server) serveAsk(w http.ResponseWriter, r *http.Request, se *session) (any, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.CaptureAsk*int64(len(image.ID{}))))
	if err != nil {
		return nil, unread(err)
	}
	if len(b) == 0 || len(b)%len(image.ID{}) != 0 {
		return nil, bad("%d bytes are no list of chunk IDs", len(b))
	}
	known := make([]bool, len(b)/len(image.ID{}))
	for i := range known {
		known[i] = se.w.Has(image.ID(b[i*len(image.ID{}):]))
	}
	return api.CaptureKnown{Known: known}, nil
}

// unread is an error of reading a body: the client's, in some way.
func unread(err error) error { return fmt.Errorf("%w: body: %w", errBad, err) }

func (s *Server) serveChunk(w http.ResponseWriter, r *http.Request, se *session) (any, error) {
	id, err := image.ParseID(r.PathValue("id"))
	if err != nil {
		return nil, bad("%v", err)
	}
	size, err := strconv.Atoi(r.FormValue("size"))
	if err != nil || size < 1 || size > image.RegionSize {
		return nil, bad("chunk %s: size %.20q, want 1 to %d", id.Short(), r.FormValue("size"), image.RegionSize)
	}
	v := s.pool.Get().(*verifier)
	defer s.pool.Put(v)
	n, err := io.ReadFull(http.MaxBytesReader(w, r.Body, int64(size)), v.in)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, unread(err)
	}
	if n == 0 {
		return nil, bad("chunk %s is empty", id.Short())
	}
	// Before anything is acknowledged, or stored: who asks for it later gets it.
	if _, err := v.dec.Decode(v.out, v.in[:n], id, size); err != nil {
		return nil, err
	}
	// Not by the request's context: a client that leaves must not spend the writer.
	added, err := se.w.Put(context.WithoutCancel(r.Context()), id, size, v.in[:n])
	return api.CaptureStored{Added: added}, se.failed(err)
}

func (s *Server) serveFlush(_ http.ResponseWriter, r *http.Request, se *session) (any, error) {
	return nil, se.flush(r.Context())
}

func (se *session) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longTime)
	defer cancel()
	return se.failed(se.w.Flush(ctx))
}

func (s *Server) serveImage(w http.ResponseWriter, r *http.Request, se *session) (any, error) {
	size, err := strconv.Atoi(r.FormValue("manifest"))
	if err != nil || size < 1 || size > maxManifest {
		return nil, bad("manifest=%.20q, want the manifest's length", r.FormValue("manifest"))
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(size)+maxMap))
	if err != nil {
		return nil, unread(err)
	}
	if len(b) < size {
		return nil, bad("%d bytes are no manifest of %d", len(b), size)
	}
	if err := se.flush(r.Context()); err != nil {
		return nil, err
	}
	return nil, s.store.PutImage(r.Context(), b[:size], b[size:])
}

func (s *Server) serveTag(_ http.ResponseWriter, r *http.Request, se *session) (any, error) {
	digest, err := parseDigest(r.FormValue("digest"))
	if err != nil {
		return nil, bad("%v", err)
	}
	// One at a time: the second of two that ask the same must find the first's.
	s.tagging.Lock()
	defer s.tagging.Unlock()
	tag, ok, err := s.tagged(r.Context(), se.job, digest)
	if err == nil && !ok {
		tag, err = s.store.CreateTag(r.Context(), se.job.Name, digest, "", se.job.labels())
	}
	if err != nil {
		return nil, err
	}
	img, err := store.OpenImage(r.Context(), s.store, digest)
	if err != nil {
		return nil, err
	}
	encoded, err := store.EncodedBytes(s.store, img)
	if err != nil {
		return nil, err
	}
	if err := se.finish(); err != nil {
		return nil, err
	}
	s.log.Info("intake: captured", "node", se.job.Node, "image", tag.Ref().String())
	return api.CaptureTagged{Tag: tag, EncodedBytes: encoded}, nil
}

func parseDigest(s string) (image.ID, error) {
	if len(s) != hex.EncodedLen(len(image.ID{})) {
		return image.ID{}, fmt.Errorf("digest=%.80q", s)
	}
	return image.ParseID(s)
}

// tagged finds the tag that this very job was given.
func (s *Server) tagged(ctx context.Context, job Job, digest image.ID) (image.TagInfo, bool, error) {
	tags, err := s.store.Tags(ctx)
	if err != nil {
		return image.TagInfo{}, false, err
	}
	for _, t := range tags {
		if t.Name == job.Name && t.Digest == digest && maps.Equal(t.Labels, job.labels()) {
			return t, true, nil
		}
	}
	return image.TagInfo{}, false, nil
}
