package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/store"
)

const (
	// patience is how long a client goes on asking after the first failure: time
	// enough to restart a server.
	patience = 5 * time.Minute
	// callTime bounds a small request, longTime one that waits for a disk.
	callTime = time.Minute
	// maxAnswer bounds an answer in bytes.
	maxAnswer = 1 << 20
)

// ErrGone is wrapped where the server does not know the session any more: the
// capture is to be begun anew, and finds in the store what it put there.
var ErrGone = errors.New("the server has closed the session; what was sent is kept")

// Client is a store far away that captures one image. It is a capture.Store.
type Client struct {
	http *http.Client
	base string // of all paths, ending in /capture

	mu      sync.Mutex
	session string
	tagged  api.CaptureTagged
}

// NewClient returns a client that captures as the given node. c carries the
// node's token.
func NewClient(base *url.URL, node string, c *http.Client) *Client {
	return &Client{http: c, base: base.JoinPath(api.PathNodes, node, api.PathCapture).String()}
}

// NewWriter begins a session, or goes on with the node's present one.
func (c *Client) NewWriter(ctx context.Context) (store.Writer, error) {
	var s api.CaptureSession
	if err := c.call(ctx, http.MethodPost, "", nil, callTime, &s); err != nil {
		return nil, err
	}
	if s.Session == "" {
		return nil, errors.New("intake: the server's answer names no session")
	}
	c.mu.Lock()
	c.session = s.Session
	c.mu.Unlock()
	return &writer{c: c, sent: map[image.ID]struct{}{}}, nil
}

// PutImage implements capture.Store.
func (c *Client) PutImage(ctx context.Context, manifest, compressedMap []byte) error {
	return c.call(ctx, http.MethodPut, c.path("image?manifest="+strconv.Itoa(len(manifest))), slices.Concat(manifest, compressedMap), longTime, nil)
}

// CreateTag implements capture.Store. The server knows what name the image is
// to have; the one given here, parent and labels do not count.
func (c *Client) CreateTag(ctx context.Context, _ string, digest image.ID, _ string, _ map[string]string) (image.TagInfo, error) {
	var t api.CaptureTagged
	if err := c.call(ctx, http.MethodPost, c.path("tag?digest="+digest.String()), nil, longTime, &t); err != nil {
		return image.TagInfo{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tagged = t
	return t.Tag, nil
}

// EncodedBytes implements capture.Sizer for the image that was tagged.
func (c *Client) EncodedBytes(_ context.Context, digest image.ID) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tagged.Tag.Digest != digest {
		return 0, fmt.Errorf("intake: image %s was not tagged", digest.Short())
	}
	return c.tagged.EncodedBytes, nil
}

func (c *Client) path(rest string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return "/" + url.PathEscape(c.session) + "/" + rest
}

// writer is a store.Writer and a capture.Asker.
type writer struct {
	c *Client

	mu sync.Mutex
	// sent are chunks under way: two workers may meet the same at one time.
	sent map[image.ID]struct{}
}

// Has implements store.Writer; Ask is for that.
func (w *writer) Has(image.ID) bool { return false }

// Ask implements capture.Asker.
func (w *writer) Ask(ctx context.Context, ids []image.ID, known []bool) error {
	for part := range slices.Chunk(ids, api.CaptureAsk) {
		b := make([]byte, 0, len(part)*len(image.ID{}))
		for _, id := range part {
			b = append(b, id[:]...)
		}
		var k api.CaptureKnown
		if err := w.c.call(ctx, http.MethodPost, w.c.path("ask"), b, callTime, &k); err != nil {
			return err
		}
		if len(k.Known) != len(part) {
			return fmt.Errorf("intake: asked for %d chunks, the server answers for %d", len(part), len(k.Known))
		}
		copy(known, k.Known)
		known = known[len(part):]
	}
	return nil
}

// Put implements store.Writer.
func (w *writer) Put(ctx context.Context, id image.ID, size int, encoded []byte) (added bool, err error) {
	w.mu.Lock()
	_, under := w.sent[id]
	if !under {
		w.sent[id] = struct{}{}
	}
	w.mu.Unlock()
	if under {
		return false, nil // Flush comes after both
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.sent, id)
	}()
	var s api.CaptureStored
	err = w.c.call(ctx, http.MethodPut, w.c.path("chunks/"+id.String()+"?size="+strconv.Itoa(size)), encoded, callTime, &s)
	return s.Added, err
}

// Flush implements store.Writer.
func (w *writer) Flush(ctx context.Context) error {
	return w.c.call(ctx, http.MethodPost, w.c.path("flush"), nil, longTime, nil)
}

// Close implements store.Writer. The server ends the session when it has heard
// that the capture is complete, or nothing for long.
func (w *writer) Close() error { return nil }

// call makes a request until it is answered, within patience of the first
// failure. The server's last word on it is an *api.Error, or wraps ErrGone.
func (c *Client) call(ctx context.Context, method, path string, body []byte, limit time.Duration, out any) error {
	var give time.Time
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := c.once(ctx, method, path, body, limit, out)
		if give.IsZero() {
			give = time.Now().Add(patience)
		}
		var said *api.Error
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &said) && said.Code == CodeGone:
			return fmt.Errorf("intake: %w", ErrGone)
		case errors.As(err, &said) && said.Code != "internal", time.Now().After(give):
			return fmt.Errorf("intake: %w", err)
		}
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (c *Client) once(ctx context.Context, method, path string, body []byte, limit time.Duration, out any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		said := new(api.Error)
		if json.Unmarshal(b, said) != nil || said.Code == "" {
			said = &api.Error{Code: "internal", Message: fmt.Sprintf("%s answered %s", req.URL.Host, resp.Status)}
		}
		return said
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}
