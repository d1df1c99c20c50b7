// Command bench tells where the time goes between power-on and login, for each
// way into a machine: one with an empty disk is started, finds its assignment
// waiting, is installed with the tiny system, or with --debian the real one,
// and starts it. It needs root.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"huck/imager/api"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/site"
	"huck/qemu-tests/vm"
)

type options struct {
	debian bool
	runs   int
	way    string
	json   string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var o options
	flag.BoolVar(&o.debian, "debian", false, "install a real Debian instead of the tiny system")
	flag.IntVar(&o.runs, "runs", 1, "how many times for each way")
	flag.StringVar(&o.way, "way", "", "only the way of this `name`, e.g. \"UEFI PXE\"")
	flag.StringVar(&o.json, "json", "", "also write the results to this `file`, one JSON object a line")
	flag.Parse()
	err := run(ctx, os.Stdout, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is one boot: seconds since power-on.
type result struct {
	Way        string  `json:"way"`
	Init       float64 `json:"init"`
	Lease      float64 `json:"lease"`
	FirstChunk float64 `json:"first_chunk"`
	LastBlock  float64 `json:"last_block"`
	Login      float64 `json:"login"`
	// Own is from the lease to the first chunk: the appliance's own work.
	Own float64 `json:"lease_to_first_chunk"`
}

// source is the system that is installed.
type source struct {
	ref, hostname string
	size          int64
	encoded       int64
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	log := site.PlainLog(os.Stderr)
	s, remove, err := site.Temporary(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(err != nil && ctx.Err() == nil)) }()
	src := source{hostname: disks.TinyHostname, size: disks.TinySize}
	disk := s.Path("tiny-source.raw")
	if o.debian {
		src.hostname, src.size = disks.DebianHostname, disks.DebianSize
		disk, err = disks.Debian(ctx, disks.CacheDir(), disks.Ext4(), log)
	} else {
		err = disks.Tiny{Init: s.Programs.TinyInit, Kernel: s.Programs.Kernel(), Payload: 32 << 20, Seed: 1}.Write(ctx, disk)
	}
	if err != nil {
		return err
	}
	img, err := s.Capture(ctx, disk, "bench")
	if err != nil {
		return err
	}
	src.ref, src.encoded = img.Ref, img.EncodedBytes
	medium, err := s.Programs.Medium(ctx)
	if err != nil {
		return err
	}
	if err := s.StartServer(ctx, "80M"); err != nil {
		return err
	}
	results, err := measure(ctx, out, s, src, medium, o)
	if err != nil {
		return err
	}
	if err := sizes(out, s.Programs, medium); err != nil {
		return err
	}
	return write(o.json, results)
}

// measure goes every way, and prints each as it ends.
func measure(ctx context.Context, out io.Writer, s *site.Site, src source, medium string, o options) (all []result, err error) {
	fmt.Fprintf(out, "%s, %.1f MB encoded; seconds since power-on\n%-16s%10s%10s%13s%12s%10s%22s\n",
		src.hostname, float64(src.encoded)/1e6, "way", "init", "lease", "first chunk", "last block", "login", "lease to first chunk")
	for _, w := range site.Ways {
		if o.way != "" && o.way != w.Name {
			continue
		}
		for i := range o.runs {
			m, err := s.PlugWay(ctx, w, fmt.Sprintf("%s-%d", w.FileName(), i+1), src.size, medium)
			if err != nil {
				return nil, err
			}
			r, err := boot(ctx, s, m, src)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.Name, err)
			}
			r.Way = w.Name
			fmt.Fprintf(out, "%-16s%10.2f%10.2f%13.2f%12.2f%10.2f%22.2f\n", r.Way, r.Init, r.Lease, r.FirstChunk, r.LastBlock, r.Login, r.Own)
			all = append(all, r)
		}
	}
	if all == nil {
		return nil, fmt.Errorf("no way is called %q", o.way)
	}
	return all, nil
}

// boot takes a machine that has an assignment from power-on to login.
func boot(ctx context.Context, s *site.Site, m *vm.Machine, src source) (r result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if _, err := s.Bootserver(ctx, "assign", m.MAC(), src.ref, "--disk", "only", "--once", "--then", "kexec"); err != nil {
		return r, err
	}
	from := s.Events.Len()
	if err := m.PowerOn(); err != nil {
		return r, err
	}
	defer m.Cut()
	g, ctx := errgroup.WithContext(ctx)
	mark := func(at *float64, wait func() error) {
		g.Go(func() error {
			err := wait()
			*at = time.Since(m.OnAt()).Seconds()
			return err
		})
	}
	onConsole := func(at *float64, pattern string) {
		mark(at, func() error {
			_, _, err := m.Expect(ctx, pattern, 0)
			return err
		})
	}
	onEvent := func(at *float64, what string, match func(api.Event) bool) {
		mark(at, func() error {
			_, _, err := s.Events.Wait(ctx, from, what, match)
			return err
		})
	}
	onConsole(&r.Init, `huck: .* the Huck appliance`)
	onConsole(&r.Lease, `huck: step network: done`)
	onConsole(&r.Login, src.hostname+" login: ")
	onEvent(&r.FirstChunk, "first chunk", func(e api.Event) bool { return e.Progress != nil && e.Progress.Written > 0 })
	onEvent(&r.LastBlock, "installed", func(e api.Event) bool { return e.Type == api.EventInstalled })
	err = g.Wait()
	r.Own = r.FirstChunk - r.Lease
	return r, err
}

func sizes(out io.Writer, p site.Programs, medium string) error {
	for _, f := range []struct{ name, path string }{
		{"kernel", p.Kernel()}, {"initramfs", p.Initramfs()}, {"UKI", p.UKI()}, {"medium", medium},
	} {
		info, err := os.Stat(f.path)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-10s%10.2f MiB\n", f.name, float64(info.Size())/(1<<20))
	}
	return nil
}

// write puts the results into a file, if one is named.
func write(name string, results []result) (err error) {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	enc := json.NewEncoder(f)
	for _, r := range results {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
