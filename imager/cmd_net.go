package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/archive"
	"huck/imager/cast"
	"huck/imager/image"
	"huck/imager/origin"
	"huck/imager/receive"
)

type sendCmd struct {
	refArg
	storeFlag
	Listen    string `required:"" placeholder:"HOST:PORT" help:"Where to answer HTTP; port 0 takes a free one."`
	Interface string `required:"" placeholder:"IF" help:"The interface to send on."`
	Group     string `placeholder:"ADDR:PORT" help:"The multicast group; chosen by the image by default."`
	origin.CastFlags
}

// Run serves an image until it is interrupted.
func (c *sendCmd) Run(a *app) error {
	st, err := c.open(a, false)
	if err != nil {
		return err
	}
	tag, _, err := c.openImage(a.ctx, st)
	if err != nil {
		return err
	}
	ln, err := new(net.ListenConfig).Listen(a.ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer ln.Close()
	cfg, group, err := c.cast(ln.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}
	cfg.Log = a.log
	server, err := cast.Listen(cfg)
	if err != nil {
		return err
	}
	o := origin.New(origin.Config{
		Store: st, Cast: server, Interface: cfg.Interface, Group: group, Log: a.log,
		Authorize: func(_ *http.Request, digest image.ID) error {
			if digest.IsZero() || digest == tag.Digest {
				return nil
			}
			return fmt.Errorf("send: image @%s is not the one served here: %w", digest.Short(), origin.ErrUnauthorized)
		},
	})
	h := &http.Server{
		Handler: o.Handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn), // such as: out of file descriptors
	}
	g, ctx := errgroup.WithContext(a.ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error { return o.Run(ctx) })
	g.Go(func() error {
		if err := h.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error { <-ctx.Done(); return h.Close() })
	err = a.ui.result(map[string]string{"event": "ready", "http": ln.Addr().String(), "image": "@" + tag.Digest.String()},
		"serving %s at http://%s/", tag.Ref(), ln.Addr())
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if a.ctx.Err() != nil {
		return nil // a signal is how a server ends
	}
	return err
}

// cast configures the multicast side of a sender that answers HTTP at addr, and
// tells which group its channels have.
func (c *sendCmd) cast(addr *net.TCPAddr) (cfg cast.ServerConfig, group func(image.ID) netip.AddrPort, err error) {
	if cfg, err = c.Server(); err != nil {
		return cfg, nil, usageError{err}
	}
	if cfg.Interface, err = net.InterfaceByName(c.Interface); err != nil {
		return cfg, nil, usageError{fmt.Errorf("interface %s: %w", c.Interface, err)}
	}
	listen, err := requestAddr(cfg.Interface, addr)
	if err != nil {
		return cfg, nil, err
	}
	cfg.Addr, cfg.Gather = netip.AddrPortFrom(listen, 0), origin.Gather
	if c.Group == "" {
		return cfg, origin.Groups(listen), nil
	}
	g, err := netip.ParseAddrPort(c.Group)
	if err != nil || !g.Addr().IsMulticast() || g.Port() == 0 {
		return cfg, nil, usageError{fmt.Errorf("--group %q is no multicast ADDR:PORT", c.Group)}
	}
	if g.Addr().Is4() != listen.Is4() {
		return cfg, nil, usageError{fmt.Errorf("--group %v and the address %v of --listen are of different families", g, listen)}
	}
	return cfg, func(image.ID) netip.AddrPort { return g }, nil
}

// requestAddr is where requests are answered: the address that HTTP is
// answered at or, if that is any, any of the interface's family: IPv4 unless
// it has only IPv6 addresses.
func requestAddr(ifi *net.Interface, addr *net.TCPAddr) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(addr.IP)
	if ok && !a.IsUnspecified() {
		return a.Unmap().WithZone(addr.Zone), nil
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of interface %s: %w", ifi.Name, err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return netip.IPv4Unspecified(), nil
		}
	}
	return netip.IPv6Unspecified(), nil
}

type receiveCmd struct {
	URL string `arg:"" help:"http(s)://HOST:PORT/REF"`
	installFlags
	Interface   string `placeholder:"IF" help:"The interface to join the channel on; the one that leads to HOST by default."`
	NoMulticast bool   `help:"Take everything over HTTP."`
	TokenFile   string `placeholder:"FILE" help:"Holds the token to show to the server."`
	CA          string `placeholder:"FILE" help:"The certificates, PEM, one of which must have signed the server's."`
}

// Run receives an image.
func (c *receiveCmd) Run(a *app) error {
	base, err := url.Parse(c.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") == "" {
		return usageError{fmt.Errorf("%q is no http(s)://HOST:PORT/REF", c.URL)}
	}
	ref := strings.Trim(base.Path, "/")
	if _, err := image.ParseRef(ref); err != nil {
		return usageError{err}
	}
	base.Path = "/"
	client, err := c.client()
	if err != nil {
		return err
	}
	if err := archive.CheckRaw(c.To); err != nil {
		return err
	}
	p := a.ui.progress("receive " + ref)
	defer p.Stop()
	r, err := receive.Run(a.ctx, receive.Config{
		Base: base, Ref: ref, Target: c.To, Interface: c.Interface, NoMulticast: c.NoMulticast, Client: client, Install: c.options(a, p),
	})
	if err != nil {
		return err
	}
	return a.done(r)
}

func (c *receiveCmd) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = origin.Dial(t.DialContext).Hedged()
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, usageError{fmt.Errorf("--ca: %w", err)}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usageError{fmt.Errorf("--ca: no certificate in %s", c.CA)}
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	if c.TokenFile == "" {
		return &http.Client{Transport: t}, nil
	}
	token, err := readToken(c.TokenFile)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: bearer{token, t}}, nil
}

// bearer adds a token to every request.
type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(api.HeaderAuth, "Bearer "+b.token)
	return b.next.RoundTrip(r)
}
