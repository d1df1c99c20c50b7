// Command demo shows the whole path once: it makes a real Debian disk,
// captures it, starts the boot server in a private virtual network, switches
// two empty machines on and ends when both are at the login prompt of the
// installed system. It leaves nothing behind. It needs root.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"huck/imager/api"
	"huck/qemu-tests/disks"
	"huck/qemu-tests/site"
	"huck/qemu-tests/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, term.IsTerminal(int(os.Stdout.Fd())))
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything is cleaned up")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// rate leaves two emulated machines time to write: at twice that they miss half
// of what is sent, and it is sent again.
const rate = "40M"

// demo is one run.
type demo struct {
	*site.Site
	log   *slog.Logger
	board *board
}

func run(ctx context.Context, out io.Writer, terminal bool) (err error) {
	if os.Getuid() != 0 {
		return errors.New("network namespaces and a Debian disk need root")
	}
	log := site.PlainLog(out)
	s, remove, err := site.Temporary(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(err != nil && ctx.Err() == nil)) }()
	d := &demo{Site: s, log: log, board: newBoard(out, terminal, "first", "second")}
	img, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	return d.show(ctx, out, img)
}

// prepare ends with a captured image and a boot server that is ready.
func (d *demo) prepare(ctx context.Context) (site.Captured, error) {
	disk, err := disks.Debian(ctx, disks.CacheDir(), disks.Ext4(), d.log)
	if err != nil {
		return site.Captured{}, err
	}
	d.log.Info("capturing the disk of " + disks.DebianHostname)
	img, err := d.Capture(ctx, disk, "debian")
	if err != nil {
		return img, err
	}
	d.log.Info(fmt.Sprintf("captured %s: %s used, %s encoded, %.1f s", img.Ref, megabytes(img.ImageBytes), megabytes(img.EncodedBytes), img.Seconds))
	if err := d.StartServer(ctx, rate); err != nil {
		return img, err
	}
	d.log.Info("boot server is ready; switching on two machines with empty disks")
	return img, nil
}

// show installs both machines and sums up.
func (d *demo) show(ctx context.Context, out io.Writer, img site.Captured) error {
	g, gctx := errgroup.WithContext(ctx)
	var results [2]api.Result
	var took [2]time.Duration
	for i, name := range []string{"first", "second"} {
		m, err := d.AddMachine(ctx, name, disks.DebianSize, 384)
		if err != nil {
			return err
		}
		g.Go(func() (err error) {
			results[i], took[i], err = d.follow(gctx, i, m, img.Ref)
			return err
		})
	}
	err := g.Wait()
	d.board.end()
	if err != nil {
		return err
	}
	sent, err := d.Network.Sent(ctx)
	if err != nil {
		return err
	}
	netboot, err := d.Programs.NetbootBytes()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nBoth machines run %s, installed from %s.\n", disks.DebianHostname, img.Ref)
	for i, r := range results {
		fmt.Fprintf(out, "  machine %d: power-on to login %.1f s, of it %.1f s imaging; %s written\n", i+1, took[i].Seconds(), r.Seconds, megabytes(r.WrittenBytes))
	}
	fmt.Fprintf(out, "  sent: %s by multicast for an image of %s encoded (%.2f times it, for two machines)\n",
		megabytes(sent.Multicast), megabytes(img.EncodedBytes), float64(sent.Multicast)/float64(img.EncodedBytes))
	fmt.Fprintf(out, "        %s by unicast, nearly all of it kernel and initramfs (%s a machine)\n", megabytes(sent.Unicast), megabytes(netboot))
	return nil
}

// follow takes a machine from power-on to login and shows how it goes.
func (d *demo) follow(ctx context.Context, row int, m *vm.Machine, ref string) (r api.Result, took time.Duration, err error) {
	if err := m.PowerOn(); err != nil {
		return r, 0, err
	}
	d.board.set(row, "switched on, booting from the network", 0)
	node, err := d.Assign(ctx, m, ref, "only", "--once", "--then", "kexec")
	if err != nil {
		return r, 0, err
	}
	watch, stop := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return d.watch(watch, row, node.ID) })
	_, _, err = m.Expect(ctx, disks.DebianHostname+" login: ", 0)
	took = time.Since(m.OnAt())
	stop()
	if werr := g.Wait(); err == nil && !errors.Is(werr, context.Canceled) {
		err = werr
	}
	if err != nil {
		return r, 0, err
	}
	d.board.set(row, fmt.Sprintf("%s login: after %.1f s", disks.DebianHostname, took.Seconds()), 100)
	r, _, err = d.Installed(ctx, node.ID, 0)
	return r, took, err
}

// watch shows a node's events until ctx is done.
func (d *demo) watch(ctx context.Context, row int, node string) error {
	for at := 0; ; {
		e, next, err := d.Events.Wait(ctx, at, "any", func(e api.Event) bool { return e.Node == node })
		if err != nil {
			return err
		}
		at = next
		switch {
		case e.Progress != nil && e.Progress.Total > 0:
			p := e.Progress
			d.board.set(row, fmt.Sprintf("%s of %s on the disk", megabytes(p.InPlace+p.Written), megabytes(p.Total)), int(100*(p.InPlace+p.Written)/p.Total))
		case e.Type == api.EventVerified:
			d.board.set(row, "read back and equal to the image", 100)
		case e.Type == api.EventStep && e.State == api.StepFailed:
			d.board.set(row, "step "+e.Step+" failed: "+e.Error, 0)
		case e.Type == api.EventStep && e.State == api.StepRunning:
			d.board.set(row, "step "+e.Step, 0)
		}
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
