// Package web is the boot server's HTTP side: the API of imager/api for
// appliances and operators, the boot files, and a page that lists nodes and
// images.
//
// Who may do what:
//   - Anybody on the network may fetch boot files and register a machine.
//   - A node's token, new at every boot, opens that node's assignment, its
//     events, and the images.
//   - Everything else is for this host: for peers with a loopback address or
//     one of the host's own, which the kernel takes from no wire.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"huck/bootserver/boot"
	"huck/bootserver/events"
	"huck/bootserver/nodes"
	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/intake"
	"huck/imager/origin"
	"huck/imager/store"
)

// Config wires the HTTP side to the rest.
type Config struct {
	Nodes  *nodes.Registry
	Events *events.Log
	Files  boot.Folder
	// Server is our URL as machines see it; Append goes to the end of the
	// kernel command line.
	Server *url.URL
	// Server6 is the same for those who ask over IPv6; nil if there is none.
	Server6 *url.URL
	Append  string
	// Images serves what is below api.PathRefs and api.PathImages; it asks
	// Authorize by itself.
	Images http.Handler
	// Intake takes what nodes capture.
	Intake *intake.Server
	// Resolve finds the image of a reference; store.ErrNotFound if none.
	Resolve func(ctx context.Context, ref string) (api.Resolved, error)
	// Tags lists the images for the page.
	Tags func(ctx context.Context) ([]image.TagInfo, error)
	// Scripted, if set, is told of each iPXE script handed out; mac is empty
	// if the request names none.
	Scripted func(mac string)
	// Log may be nil.
	Log *slog.Logger
}

type server struct {
	Config
}

// Handler returns the handler of all paths.
func Handler(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+boot.PathScript, s.script)
	mux.HandleFunc("GET "+boot.PathBoot+"{name...}", s.bootFile)
	mux.HandleFunc("POST "+api.PathNodes, s.register)
	mux.HandleFunc("GET "+api.PathNodes+"/{node}/assignment", s.asNode(s.assignment))
	mux.HandleFunc("POST "+api.PathNodes+"/{node}/events", s.asNode(s.report))
	mux.HandleFunc("GET "+api.PathNodes+"/{node}/personality", s.asNode(s.personality))
	mux.Handle("GET "+api.PathRefs, deadline(s.Images))
	mux.Handle("GET "+api.PathImages, deadline(s.Images))
	mux.HandleFunc("GET "+api.PathNodes, s.here(s.list))
	mux.HandleFunc("PUT "+api.PathNodes+"/{node}/assignment", s.here(s.assign))
	mux.HandleFunc("DELETE "+api.PathNodes+"/{node}/assignment", s.here(s.unassign))
	mux.HandleFunc("PUT "+api.PathNodes+"/{node}/capture", s.here(s.capture))
	mux.HandleFunc("DELETE "+api.PathNodes+"/{node}/capture", s.here(s.uncapture))
	mux.HandleFunc("PUT "+api.PathNodes+"/{node}/maintenance", s.here(s.maintain))
	mux.HandleFunc("PUT "+api.PathNodes+"/{node}/model", s.here(s.model))
	mux.HandleFunc("PUT "+api.PathGroups+"/{group}", s.here(s.group))
	mux.HandleFunc("GET "+api.PathEvents, s.here(s.follow))
	mux.HandleFunc("GET /{$}", s.here(s.page))
	for route, h := range s.Intake.Routes() {
		method, path, _ := strings.Cut(route, " ")
		mux.HandleFunc(method+" "+api.PathNodes+"/{node}/"+path, s.asNode(s.capturing(h)))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		origin.WriteError(w, http.StatusNotFound, "not_found", fmt.Errorf("web: no %s %.200s here", r.Method, r.URL.Path))
	})
	return mux
}

// fail answers an error as what it is.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, nodes.ErrNotFound), errors.Is(err, nodes.ErrNothing), errors.Is(err, store.ErrNotFound):
		origin.WriteError(w, http.StatusNotFound, "not_found", err)
	case errors.As(err, &tooLarge):
		origin.WriteError(w, http.StatusRequestEntityTooLarge, "bad_request", err)
	case errors.Is(err, nodes.ErrInvalid), errors.Is(err, errBody):
		origin.WriteError(w, http.StatusBadRequest, "bad_request", err)
	default:
		s.Log.Error("web: request failed", "path", r.URL.Path, "peer", r.RemoteAddr, "err", err)
		origin.WriteError(w, http.StatusInternalServerError, "internal", err)
	}
}

// sendTime is what a client may take to take an answer: a boot file or a chunk
// through a line of 1 Mbit/s.
const sendTime = 10 * time.Minute

func deadline(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setWriteDeadline(w, sendTime)
		h.ServeHTTP(w, r)
	})
}

// setWriteDeadline bounds what is written from now on. The one error it can
// have is that the writer has no deadlines, as a test's.
func setWriteDeadline(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

// Authorize lets this host have all images, and every machine whose appliance
// runs now. It is an origin.Authorizer.
func Authorize(reg *nodes.Registry) origin.Authorizer {
	return func(r *http.Request, _ image.ID) error {
		if _, ok := reg.Authenticate(bearer(r)); ok || local(r) {
			return nil
		}
		return errors.New("web: no valid token of a node")
	}
}

func bearer(r *http.Request) string {
	t, _ := strings.CutPrefix(r.Header.Get(api.HeaderAuth), "Bearer ")
	return t
}

// asNode passes requests on that show the token of the node in their path.
func (s *server) asNode(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, ok := s.Nodes.Authenticate(bearer(r))
		if !ok {
			// 401: the node may register again and come back.
			origin.WriteError(w, http.StatusUnauthorized, "unauthorized", errors.New("web: no valid token of a node"))
			return
		}
		if id != r.PathValue("node") {
			origin.WriteError(w, http.StatusForbidden, "unauthorized", fmt.Errorf("web: this is the token of %s", id))
			return
		}
		h(w, r)
	}
}

// here passes requests on that come from this host. A browser on it must not
// be talked into them by a page from elsewhere, hence the looks at Origin and
// Host.
func (s *server) here(h http.HandlerFunc) http.HandlerFunc {
	sameOrigin := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) {
		if !local(r) {
			origin.WriteError(w, http.StatusForbidden, "unauthorized", errors.New("web: this is answered on the server's own host only"))
			return
		}
		if err := sameOrigin.Check(r); err != nil || !addressed(r.Host) {
			origin.WriteError(w, http.StatusForbidden, "unauthorized", fmt.Errorf("web: a request for %.100q is not answered; address the server as localhost or by its IP address", r.Host))
			return
		}
		h(w, r)
	}
}

// addressed reports whether a Host header is localhost or an address: a name
// could be anybody's that resolves to us.
func addressed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// local reports whether a request comes from this host.
func local(r *http.Request) bool {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && isLocal(ap.Addr())
}

func isLocal(peer netip.Addr) bool {
	peer = peer.Unmap().WithZone("")
	if peer.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == peer {
			return true
		}
	}
	return false
}
