// Command bench tells where the time goes between power-on and login: one
// machine with an empty disk boots from the network and is installed with the
// tiny system, or with --debian the real one. It needs root.
package main

import (
	"context"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	debian := flag.Bool("debian", false, "install a real Debian instead of the tiny system")
	runs := flag.Int("runs", 3, "how many times")
	flag.Parse()
	err := run(ctx, os.Stdout, *debian, *runs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// The marks of a boot, in order.
var marks = []string{"init", "lease", "first chunk", "last block", "login"}

func run(ctx context.Context, out io.Writer, debian bool, runs int) (err error) {
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	log := site.PlainLog(os.Stderr)
	s, remove, err := site.Temporary(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(err != nil && ctx.Err() == nil)) }()
	disk, hostname, size, memory := s.Path("tiny-source.raw"), disks.TinyHostname, int64(disks.TinySize), vm.Memory
	if debian {
		hostname, size, memory = disks.DebianHostname, disks.DebianSize, 384
		disk, err = disks.Debian(ctx, disks.CacheDir(), log)
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
	if err := s.StartServer(ctx, "80M"); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, %.1f MB encoded; seconds since power-on\n%-6s", hostname, float64(img.EncodedBytes)/1e6, "run")
	for _, name := range marks {
		fmt.Fprintf(out, "%13s", name)
	}
	fmt.Fprintln(out)
	for i := range runs {
		m, err := s.AddMachine(ctx, fmt.Sprintf("run%d", i+1), size, memory)
		if err != nil {
			return err
		}
		took, err := boot(ctx, s, m, img.Ref, hostname)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-6d", i+1)
		for _, d := range took {
			fmt.Fprintf(out, "%13.2f", d.Seconds())
		}
		fmt.Fprintln(out)
	}
	return sizes(out, s.Programs)
}

// boot takes a machine from power-on to login and returns when it passed each
// of the marks.
func boot(ctx context.Context, s *site.Site, m *vm.Machine, ref, hostname string) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := m.PowerOn(); err != nil {
		return nil, err
	}
	defer m.Cut()
	g, ctx := errgroup.WithContext(ctx)
	took := make([]time.Duration, len(marks))
	onConsole := func(i int, pattern string) {
		g.Go(func() error {
			_, _, err := m.Expect(ctx, pattern, 0)
			took[i] = time.Since(m.OnAt())
			return err
		})
	}
	onConsole(0, `huck: `)
	onConsole(1, `huck: step network: done`)
	onConsole(4, hostname+" login: ")
	node, err := s.Assign(ctx, m, ref, "only", "--once", "--then", "kexec")
	if err != nil {
		return nil, errors.Join(err, g.Wait())
	}
	g.Go(func() error {
		_, _, err := s.Events.Wait(ctx, 0, "first chunk", func(e api.Event) bool {
			return e.Node == node.ID && e.Progress != nil && e.Progress.Written > 0
		})
		took[2] = time.Since(m.OnAt())
		return err
	})
	g.Go(func() error {
		_, _, err := s.Installed(ctx, node.ID, 0)
		took[3] = time.Since(m.OnAt())
		return err
	})
	return took, g.Wait()
}

func sizes(out io.Writer, p site.Programs) error {
	for _, f := range []struct{ name, path string }{{"initramfs", p.Initramfs()}, {"kernel", p.Kernel()}} {
		info, err := os.Stat(f.path)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-10s%10.2f MB\n", f.name, float64(info.Size())/1e6)
	}
	return nil
}
