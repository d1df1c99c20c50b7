package origin_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/origin"
	"huck/imager/store"
)

// newStore returns a store, its folder and the digest of an image in it with
// n chunks of a region each, tagged "test".
func newStore(t *testing.T, n int) (*store.Dir, string, image.ID) {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	st, err := store.Open(dir, store.Options{Create: true})
	must(t, err)
	w, err := st.NewWriter(ctx)
	must(t, err)
	r, enc := rand.New(rand.NewPCG(1, 2)), image.NewEncoder()
	var m image.Map
	for i := range n {
		chunk := make([]byte, image.RegionSize)
		for j := range chunk {
			chunk[j] = byte(r.Uint32())
		}
		id := image.Sum(chunk)
		_, err := w.Put(ctx, id, len(chunk), enc.Encode(nil, chunk))
		must(t, err)
		m.Entries = append(m.Entries, image.Entry{Region: uint64(i), Used: ^uint64(0), ID: id})
	}
	must(t, w.Flush(ctx))
	b, err := m.AppendBinary(nil)
	must(t, err)
	man, digest, err := (&image.Manifest{
		Format: image.ManifestVersion, DiskSize: int64(n) * image.RegionSize, SectorSize: 512, Table: "none",
		Map: image.MapInfo{Digest: image.Sum(b), Regions: n, Chunks: n, UsedBytes: int64(n) * image.RegionSize},
	}).Marshal()
	must(t, err)
	packed, err := image.CompressMap(b)
	must(t, err)
	must(t, st.PutImage(ctx, man, packed))
	_, err = st.CreateTag(ctx, "test", digest, "", nil)
	must(t, err)
	must(t, w.Close())
	return st, dir, digest
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, h http.Handler) *origin.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	must(t, err)
	return origin.NewClient(u, s.Client())
}

func code(t *testing.T, err error) string {
	t.Helper()
	var said *api.Error
	if !errors.As(err, &said) {
		t.Fatalf("error %v is none of the origin's own", err)
	}
	return said.Code
}

func TestServe(t *testing.T) {
	st, _, digest := newStore(t, 3)
	c := serve(t, origin.New(origin.Config{Store: st}).Handler())
	ctx := t.Context()
	for _, ref := range []string{"test", "test:1", "@" + digest.String(), "test:1@" + digest.String()} {
		r, err := c.Resolve(ctx, ref)
		must(t, err)
		if r.Digest != digest || r.EncodedBytes < 3*image.RegionSize/2 {
			t.Errorf("%s is %+v", ref, r)
		}
	}
	man, err := c.Manifest(ctx, digest)
	must(t, err)
	img, err := c.Image(ctx, digest, man)
	must(t, err)
	dec, buf := image.NewDecoder(), make([]byte, image.RegionSize)
	for n := range uint32(img.Layout.Chunks()) {
		b, err := c.Chunk(ctx, digest, n)
		must(t, err)
		if _, err := dec.Decode(buf, b, img.Layout.ID(n), img.Layout.Size(n)); err != nil {
			t.Error(err)
		}
	}
}

func TestErrorsAreSaidOnce(t *testing.T) {
	st, dir, digest := newStore(t, 3)
	o := origin.New(origin.Config{Store: st})
	var asked atomic.Int32
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); o.Handler().ServeHTTP(w, r) }))
	ctx := t.Context()
	_, err := c.Chunk(ctx, digest, 0)
	must(t, err)

	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	must(t, err)
	if len(packs) != 1 {
		t.Fatalf("packs %q", packs)
	}
	must(t, os.Chmod(packs[0], 0o600))
	f, err := os.OpenFile(packs[0], os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("damage, not data"), image.RegionSize*3/2)
	must(t, err)
	must(t, f.Close())

	for _, tt := range []struct {
		ask  func() error
		code string
	}{
		{func() error { _, err := c.Resolve(ctx, "none"); return err }, "not_found"},
		{func() error { _, err := c.Resolve(ctx, "Not A Name"); return err }, "bad_request"},
		{func() error { _, err := c.Image(ctx, image.Sum(nil), nil); return err }, "not_found"},
		{func() error { _, err := c.Chunk(ctx, digest, 3); return err }, "not_found"},
		{func() error { _, err := c.Channel(ctx, digest); return err }, "not_found"},
		{func() error { // one of the three is damaged
			for n := range uint32(3) {
				if _, err := c.Chunk(ctx, digest, n); err != nil {
					asked.Store(1)
					return err
				}
			}
			return nil
		}, "corrupt"},
	} {
		asked.Store(0)
		if got := code(t, tt.ask()); got != tt.code {
			t.Errorf("code %q, want %q", got, tt.code)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%s was asked for %d times", tt.code, n)
		}
	}
}

func TestAuthorize(t *testing.T) {
	st, _, digest := newStore(t, 1)
	c := serve(t, origin.New(origin.Config{Store: st, Authorize: func(_ *http.Request, id image.ID) error {
		if id == digest {
			return nil
		}
		return fmt.Errorf("image %s: %w", id.Short(), origin.ErrUnauthorized)
	}}).Handler())
	if _, err := c.Manifest(t.Context(), digest); err != nil {
		t.Error(err)
	}
	if _, err := c.Resolve(t.Context(), "test"); code(t, err) != "unauthorized" {
		t.Errorf("resolve: %v", err)
	}
}

// TestClientWaitsForRestart: what passes is asked for again.
func TestClientWaitsForRestart(t *testing.T) {
	st, _, digest := newStore(t, 1)
	o := origin.New(origin.Config{Store: st}).Handler()
	var n atomic.Int32
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			panic(http.ErrAbortHandler) // the server was killed
		case 2:
			http.Error(w, "proxy: no backend", http.StatusBadGateway)
		default:
			o.ServeHTTP(w, r)
		}
	}))
	if _, err := c.Chunk(t.Context(), digest, 0); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Chunk(ctx, digest, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestClientRefusesAnotherImage(t *testing.T) {
	st, _, digest := newStore(t, 1)
	o := origin.New(origin.Config{Store: st}).Handler()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, image.Sum(nil).String(), digest.String(), 1)
		o.ServeHTTP(w, r)
	}))
	man, err := c.Manifest(t.Context(), image.Sum(nil))
	must(t, err)
	if _, err := c.Image(t.Context(), image.Sum(nil), man); !errors.Is(err, image.ErrFormat) {
		t.Errorf("an image under another's digest: %v", err)
	}
}

func TestGroups(t *testing.T) {
	for addr, prefix := range map[string]netip.Prefix{"10.0.0.1": origin.DefaultGroups4, "0.0.0.0": origin.DefaultGroups4, "fd00::1": origin.DefaultGroups6, "::": origin.DefaultGroups6} {
		group := origin.Groups(netip.MustParseAddr(addr))
		seen := make(map[netip.AddrPort]bool)
		for i := range 100 {
			g := group(image.Sum([]byte{byte(i)}))
			if !prefix.Contains(g.Addr()) || !g.Addr().IsMulticast() || g.Port() != origin.DefaultPort {
				t.Fatalf("group %s for a server at %s", g, addr)
			}
			if g != group(image.Sum([]byte{byte(i)})) {
				t.Fatal("a second call gave another group")
			}
			seen[g] = true
		}
		if len(seen) < 95 {
			t.Errorf("100 images have %d groups", len(seen))
		}
	}
}
