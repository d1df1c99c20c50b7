package main

import (
	"log/slog"
	"net"
	"net/netip"

	"huck/imager/cast"
	"huck/imager/origin"
	"huck/imager/store"
)

// library is the images and the ways they go out.
type library struct {
	store  *store.Dir
	cast   *cast.Server
	origin *origin.Origin
}

// openLibrary opens the store in dir, which is made if there is none, and the
// socket that receivers send their requests to. rate is bits per second, 0
// adaptive.
func openLibrary(dir string, ifi *net.Interface, addr netip.Addr, rate int64, authorize origin.Authorizer, log *slog.Logger) (*library, error) {
	st, err := store.Open(dir, store.Options{Create: true, Log: log})
	if err != nil {
		return nil, err
	}
	sender, err := cast.Listen(cast.ServerConfig{Interface: ifi, Addr: netip.AddrPortFrom(addr, 0), Rate: rate, Gather: origin.Gather, Log: log})
	if err != nil {
		return nil, err
	}
	return &library{st, sender, origin.New(origin.Config{
		Store: st, Cast: sender, Rate: rate, Authorize: authorize, Log: log,
		Group: origin.Groups(addr),
	})}, nil
}
