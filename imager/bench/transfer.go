package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/imager/bench/rig"
)

// trial is a transfer to measure: one tool, one network, one number of
// receivers.
type trial struct {
	Scenario string `json:"scenario"`
	// Role is empty for what the scenario is about, else it names what that is
	// compared with.
	Role string `json:"role,omitempty"`
	Tool string `json:"tool"`
	N    int    `json:"n"`
	Size int64  `json:"size"` // bytes of the file, all of them random
	// Rate is every link's in bits a second, ServerRate the server's if it differs.
	Rate       int64   `json:"rate"`
	ServerRate int64   `json:"server_rate,omitempty"`
	Loss       float64 `json:"loss,omitempty"` // at every receiver, 0 to 1
	// SlowPort is what the last receiver's link has of Rate; 0 is all.
	SlowPort  float64       `json:"slow_port,omitempty"`
	Skew      time.Duration `json:"skew,omitempty"`       // between the receivers' starts
	Kill      bool          `json:"kill,omitempty"`       // the last receiver after a third of the file
	LoseFirst int           `json:"lose_first,omitempty"` // UDP packets to the last receiver
	Polite    bool          `json:"polite,omitempty"`     // a TCP flow shares the first receiver's link
	Channels  int           `json:"channels,omitempty"`   // two: two files, each to every other receiver
	Timeout   time.Duration `json:"timeout,omitempty"`
}

// odd reports whether a trial treats its last receiver worse than others, so
// that it does not count in the time.
func (t trial) odd() bool { return t.SlowPort > 0 || t.Kill || t.LoseFirst > 0 }

func (t trial) links() []rig.Link {
	links := make([]rig.Link, t.N+1)
	for i := range links {
		links[i] = rig.Link{Up: t.Rate, Down: t.Rate}
		if i > 0 {
			links[i].Loss = t.Loss
		}
	}
	if t.ServerRate > 0 {
		links[0] = rig.Link{Up: t.ServerRate, Down: t.ServerRate}
	}
	last := &links[t.N]
	last.LoseFirst = t.LoseFirst
	if t.SlowPort > 0 {
		slow := int64(float64(t.Rate) * t.SlowPort)
		last.Up, last.Down = slow, slow
	}
	if t.Polite {
		links = append(links, rig.Link{Up: t.Rate, Down: t.Rate})
	}
	return links
}

// limit is when a transfer is given up: a minute and three times what the
// slowest link needs.
func (t trial) limit() time.Duration {
	if t.Timeout > 0 {
		return t.Timeout
	}
	rate := float64(t.Rate)
	if t.SlowPort > 0 {
		rate *= t.SlowPort
	}
	need := float64(t.Size) * 8 * float64(max(1, t.Channels)) / rate
	return time.Minute + time.Duration(3*need*float64(time.Second))
}

// transfer is one run of a trial.
type transfer struct {
	trial
	tool     tool
	work     *workload
	sendRate string // of huck; empty lets it find out
	offload  bool

	dir    string // for logs
	net    *rig.Network
	file   string
	images []string // one a channel
	urls   []string

	servers   []*rig.Process
	receivers []*receiver // receiver i is on host i+1
	before    rig.Counters
	start     time.Time
	flow      *flow // beside a polite channel

	mu  sync.Mutex
	out outcome
}

// receiver is one of a transfer's receivers.
type receiver struct {
	proc   *rig.Process
	killed bool

	mu       sync.Mutex
	result   api.Result
	complete chan struct{} // closed when a line said so
	once     sync.Once
	at       time.Time // when it was complete; zero if never
}

func (x *transfer) channel(host int) int { return (host - 1) % max(1, x.Channels) }

// run makes the network, lets the transfer happen, and takes everything down.
// What goes wrong in the transfer stands in the outcome; an error ends the
// bench.
func (x *transfer) run(ctx context.Context) (out outcome, err error) {
	for c := range max(1, x.Channels) {
		file, name, err := x.work.image(ctx, x.Size, byte(c+1))
		if err != nil {
			return outcome{}, err
		}
		x.file, x.images = file, append(x.images, name)
	}
	if x.net, err = rig.New(ctx, rig.Config{Links: x.links(), Offload: x.offload}); err != nil {
		return outcome{}, err
	}
	defer x.net.Close()
	defer x.endFlow()
	tctx, cancel := context.WithTimeout(ctx, x.limit()+readyTime)
	defer cancel()
	if err = x.begin(tctx); err == nil {
		err = x.watch(tctx)
	}
	if err != nil && tctx.Err() == nil {
		x.out.Err = err.Error()
	}
	after, err := x.net.Sent(ctx)
	if err != nil {
		return outcome{}, err
	}
	x.stop(ctx)
	x.sum(after)
	return x.out, ctx.Err()
}

// begin starts server and receivers in the tool's order; receivers that are
// skewed are started by watch.
func (x *transfer) begin(ctx context.Context) (err error) {
	x.receivers = make([]*receiver, x.N)
	if x.Polite {
		if err := x.startFlow(ctx); err != nil {
			return err
		}
	}
	if !x.tool.last {
		if err := x.startServers(ctx); err != nil {
			return err
		}
		return x.mark(ctx)
	}
	for host := 1; host <= x.N; host++ {
		if err := x.startReceiver(host); err != nil {
			return err
		}
	}
	for host := 1; host <= x.N; host++ {
		if err := x.listens(ctx, host); err != nil {
			return err
		}
	}
	if err := x.mark(ctx); err != nil {
		return err
	}
	return x.startServers(ctx)
}

// mark is when clock and counters start.
func (x *transfer) mark(ctx context.Context) (err error) {
	x.before, err = x.net.Sent(ctx)
	x.start = time.Now()
	return err
}

// readyTime is how long a server may take to begin.
const readyTime = 10 * time.Second

func (x *transfer) listens(ctx context.Context, host int) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, func() (bool, error) { return x.net.Listens(host) }); err != nil {
		return fmt.Errorf("%s does not listen on host %d: %w", x.tool.name, host, err)
	}
	return nil
}

func (x *transfer) startServers(ctx context.Context) error {
	for c := range max(1, x.Channels) {
		url := make(chan string, 1)
		cmd := rig.Command{Args: x.tool.server(x, c), Log: filepath.Join(x.dir, fmt.Sprint("server", c))}
		if x.tool.url != nil {
			cmd.OnLine = func(line string) {
				if u, ok := x.tool.url(line); ok {
					select {
					case url <- u:
					default:
					}
				}
			}
		}
		p, err := x.net.Start(0, cmd)
		if err != nil {
			return err
		}
		x.servers = append(x.servers, p)
		if x.tool.url == nil {
			if err := x.listens(ctx, 0); err != nil {
				return err
			}
			continue
		}
		select {
		case u := <-url:
			x.urls = append(x.urls, u)
		case <-p.Done():
			_, err := p.Ended()
			return fmt.Errorf("%s: the server ended: %w: %s", x.tool.name, err, tail(cmd.Log))
		case <-time.After(readyTime):
			return fmt.Errorf("%s: the server is not ready after %v: %s", x.tool.name, readyTime, tail(cmd.Log))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (x *transfer) startReceiver(host int) error {
	args, err := x.tool.receiver(x, host)
	if err != nil {
		return err
	}
	r := &receiver{complete: make(chan struct{})}
	p, err := x.net.Start(host, rig.Command{Args: args, Log: x.log(host), OnLine: func(line string) {
		if res, ok := doneResult(line); ok {
			r.mu.Lock()
			r.result = res
			r.mu.Unlock()
		}
		if x.tool.complete != nil && x.tool.complete(line) {
			r.once.Do(func() { close(r.complete) })
		}
	}})
	if err != nil {
		return err
	}
	r.proc, x.receivers[host-1] = p, r
	return nil
}

func (x *transfer) log(host int) string { return filepath.Join(x.dir, fmt.Sprint("receiver", host)) }

// watch starts the receivers that are not started yet and returns when every
// one is complete or has ended, or when ctx is done.
func (x *transfer) watch(ctx context.Context) error {
	all, gctx := errgroup.WithContext(ctx)
	wctx, stop := context.WithCancel(gctx)
	defer stop()
	var watchers errgroup.Group
	for host := 1; host <= x.N; host++ {
		if x.receivers[host-1] == nil {
			if err := x.startReceiver(host); err != nil {
				return errors.Join(err, all.Wait())
			}
		}
		r := x.receivers[host-1]
		all.Go(func() error { return r.wait(gctx, x.tool.complete != nil) })
		if host < x.N && x.Skew > 0 {
			if err := wait(gctx, x.Skew); err != nil {
				break
			}
		}
	}
	watchers.Go(func() error { return x.watchRate(wctx) })
	if x.Skew > 0 {
		watchers.Go(func() error { return x.watchJoin(wctx) })
	}
	if x.Kill {
		watchers.Go(func() error { return x.killLast(wctx) })
	}
	if x.Polite {
		watchers.Go(func() error { return x.watchFlow(wctx) })
	}
	if x.Channels > 1 {
		watchers.Go(func() error { return x.watchShares(wctx) })
	}
	err := all.Wait()
	stop()
	if werr := watchers.Wait(); !errors.Is(werr, context.Canceled) {
		err = errors.Join(err, werr)
	}
	return err
}

// wait returns when the receiver is complete or has ended.
func (r *receiver) wait(ctx context.Context, byLine bool) error {
	select {
	case <-r.complete:
		r.at = time.Now()
	case <-r.proc.Done():
		if at, err := r.proc.Ended(); err == nil && !byLine {
			r.at = at
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// stop ends all programs.
func (x *transfer) stop(ctx context.Context) {
	for _, r := range x.receivers {
		if r != nil {
			r.proc.Kill()
		}
	}
	for _, p := range x.servers {
		p.Stop(ctx, 5*time.Second)
	}
}

// tail returns the last lines of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	const most = 600
	return string(b[max(0, len(b)-most):])
}
