package origin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"huck/imager/api"
	"huck/imager/image"
)

const (
	// maxBody bounds what an origin may answer: a map of 16 Mi entries, whose
	// hashes do not compress.
	maxBody = 1 << 30
	// patience is how long a client goes on asking after the first failure: time
	// enough to restart a server.
	patience = 5 * time.Minute
	// silence is how long an answer may stand still. How long it takes in all
	// is not bounded: an origin holds chunks back while it multicasts.
	silence = time.Minute
)

// errSilence ends a request whose answer stands still.
var errSilence = fmt.Errorf("nothing came for %v", silence)

// Client asks an origin. It retries what may pass, such as a server that is
// being restarted.
type Client struct {
	base *url.URL
	http *http.Client
}

// NewClient returns a client of the origin at base, "http(s)://HOST:PORT". The
// http.Client carries credentials and trust; nil is http.DefaultClient.
func NewClient(base *url.URL, c *http.Client) *Client {
	if c == nil {
		c = http.DefaultClient
	}
	return &Client{base, c}
}

// Resolve asks which image a reference names.
func (c *Client) Resolve(ctx context.Context, ref string) (api.Resolved, error) {
	var r api.Resolved
	if err := c.getJSON(ctx, api.PathRefs+url.PathEscape(ref), &r); err != nil {
		return r, fmt.Errorf("origin: image %s: %w", ref, err)
	}
	return r, nil
}

// Manifest fetches an image's manifest. It is not verified.
func (c *Client) Manifest(ctx context.Context, digest image.ID) ([]byte, error) {
	b, err := c.get(ctx, imagePath(digest, "manifest"))
	if err != nil {
		return nil, fmt.Errorf("origin: manifest of image %s: %w", digest.Short(), err)
	}
	return b, nil
}

// Image fetches an image's chunk map and opens the image with it.
func (c *Client) Image(ctx context.Context, digest image.ID, manifest []byte) (*image.Image, error) {
	m, err := c.get(ctx, imagePath(digest, "map"))
	if err != nil {
		return nil, fmt.Errorf("origin: chunk map of image %s: %w", digest.Short(), err)
	}
	return image.Open(digest, manifest, bytes.NewReader(m))
}

// Channel asks for the image's channel. An *api.Error with the code
// "not_found" means that this origin does not multicast.
func (c *Client) Channel(ctx context.Context, digest image.ID) (api.Channel, error) {
	var ch api.Channel
	if err := c.getJSON(ctx, imagePath(digest, "channel"), &ch); err != nil {
		return ch, fmt.Errorf("origin: channel of image %s: %w", digest.Short(), err)
	}
	if !ch.Sender.Addr().IsValid() || ch.Sender.Addr().IsUnspecified() {
		a, err := c.serverAddr(ctx)
		if err != nil {
			return ch, err
		}
		ch.Sender = netip.AddrPortFrom(a, ch.Sender.Port())
	}
	return ch, nil
}

// Chunk fetches the encoded chunk with number n. It is not verified.
func (c *Client) Chunk(ctx context.Context, digest image.ID, n uint32) ([]byte, error) {
	b, err := c.get(ctx, imagePath(digest, "chunks/"+strconv.FormatUint(uint64(n), 10)))
	if err != nil {
		return nil, fmt.Errorf("origin: chunk %d of image %s: %w", n, digest.Short(), err)
	}
	return b, nil
}

func imagePath(digest image.ID, rest string) string {
	return api.PathImages + digest.String() + "/" + rest
}

func (c *Client) serverAddr(ctx context.Context) (netip.Addr, error) {
	host := c.base.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("origin: address of %s: %v", host, err)
	}
	return addrs[0].Unmap(), nil
}

func (c *Client) getJSON(ctx context.Context, path string, v any) error {
	b, err := c.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("answer of %s: %v", c.base.Host, err)
	}
	return nil
}

// get tries until it has an answer that more tries would not change, or runs
// out of patience.
func (c *Client) get(ctx context.Context, path string) ([]byte, error) {
	var give time.Time
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		b, err := c.once(ctx, path)
		if give.IsZero() {
			give = time.Now().Add(patience)
		}
		var said *api.Error
		if err == nil || ctx.Err() != nil || errors.As(err, &said) && said.Code != "internal" || time.Now().After(give) {
			return b, err
		}
		t := time.NewTimer(wait/2 + rand.N(wait)) // jitter: a whole fleet waits for the same server
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

// once asks once, and gives up when the answer stands still.
func (c *Client) once(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(errSilence) })
	defer alarm.Stop()
	b, err := c.answer(ctx, path, alarm)
	if err != nil && context.Cause(ctx) == errSilence {
		err = fmt.Errorf("GET %s from %s: %w", path, c.base.Host, errSilence)
	}
	return b, err
}

// answer returns the answer's body. It puts alarm off whenever some of it comes.
func (c *Client) answer(ctx context.Context, path string, alarm *time.Timer) ([]byte, error) {
	u := *c.base
	ref, err := url.Parse(path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.ResolveReference(ref).String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, readError(resp)
	}
	b, err := io.ReadAll(&watched{io.LimitReader(resp.Body, maxBody+1), alarm})
	if err == nil && len(b) > maxBody {
		err = fmt.Errorf("answer of %s is longer than %d bytes", c.base.Host, maxBody)
	}
	return b, err
}

// watched puts an alarm off with every byte read.
type watched struct {
	io.Reader
	alarm *time.Timer
}

// Read implements io.Reader.
func (r *watched) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.alarm.Reset(silence)
	}
	return n, err
}

// readError turns an answer that is not 200 into an *api.Error; what comes
// from something else than an origin (a proxy, say) counts as passing.
func readError(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := new(api.Error)
	if json.Unmarshal(b, e) != nil || e.Code == "" {
		e = &api.Error{Code: "internal", Message: fmt.Sprintf("%s answered %s", resp.Request.URL, resp.Status)}
	}
	return e
}
