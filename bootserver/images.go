package main

import (
	"log/slog"
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
// socket that receivers send their requests to, as set says.
func openLibrary(dir string, set *settings, authorize origin.Authorizer, log *slog.Logger) (*library, error) {
	st, err := store.Open(dir, store.Options{Create: true, Log: log})
	if err != nil {
		return nil, err
	}
	cfg := set.cast
	cfg.Interface, cfg.Addr = set.ifi, netip.AddrPortFrom(set.own.Addr(), 0)
	cfg.Gather, cfg.Log = origin.Gather, log
	sender, err := cast.Listen(cfg)
	if err != nil {
		return nil, err
	}
	return &library{st, sender, origin.New(origin.Config{
		Store: st, Cast: sender, Interface: set.ifi, Authorize: authorize, Log: log,
		Group: origin.Groups(set.own.Addr()),
	})}, nil
}
