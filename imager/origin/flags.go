package origin

import (
	"fmt"

	"huck/imager/api"
	"huck/imager/cast"
)

// CastFlags are the flags of multicast, the same for every program that is an
// origin. The tags are for kong.
type CastFlags struct {
	Rate   string  `placeholder:"RATE" help:"The most that multicast sends in all, in bits a second, such as 500M or 2G. By default it finds out what the network and the machines can take."`
	Polite bool    `help:"Leave TCP connections on the same links their fair share. Otherwise multicast takes what the links give; HTTP of this program stays small beside it either way."`
	Floor  float64 `default:"0.25" placeholder:"FRACTION" help:"A machine slower than this part of the median machine has to finish over HTTP, so that it does not slow the others: 0 (nobody has to) to below 1; ${default} by default."`
	DSCP   int     `name:"dscp" default:"0" placeholder:"N" help:"The class of service that multicast packets carry for switches, 0 to 63; ${default} by default."`
	TTL    int     `name:"ttl" default:"1" placeholder:"N" help:"How many routers multicast packets may pass, plus one: 1 to 255; ${default} (this network only) by default."`
	Jumbo  bool    `help:"Send packets as large as the interface's MTU (jumbo frames); every switch and machine on the way must take them."`
}

// Server returns a server's configuration as the flags have it, or what is
// wrong with them.
func (f *CastFlags) Server() (cfg cast.ServerConfig, err error) {
	if f.Rate != "" {
		if cfg.Rate, err = api.ParseRate(f.Rate); err != nil {
			return cfg, fmt.Errorf("--rate: %w", err)
		}
	}
	if !(f.Floor >= 0 && f.Floor < 1) { // nor not a number
		return cfg, fmt.Errorf("--floor %v: want a part of the median from 0 to below 1, such as 0.25", f.Floor)
	}
	if f.DSCP < 0 || f.DSCP > 63 {
		return cfg, fmt.Errorf("--dscp %d: want 0 to 63", f.DSCP)
	}
	if f.TTL < 1 || f.TTL > 255 {
		return cfg, fmt.Errorf("--ttl %d: want 1 to 255", f.TTL)
	}
	cfg.Polite, cfg.Floor, cfg.DSCP, cfg.TTL, cfg.Jumbo = f.Polite, f.Floor, f.DSCP, f.TTL, f.Jumbo
	if f.Floor == 0 {
		cfg.Floor = -1 // to cast, 0 is its default
	}
	return cfg, nil
}
