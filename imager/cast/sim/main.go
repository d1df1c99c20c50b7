// Command sim runs the state machines of package cast over a simulated network
// and writes what came of it to SIMULATION.md and simulation.svg. It fails if
// a receiver of any run does not end complete and exact.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	dir := flag.String("dir", "imager/cast", "where SIMULATION.md and simulation.svg go")
	most := flag.Int("receivers", 5000, "leave out runs of the matrix with more")
	flag.Parse()
	err := run(ctx, os.Stderr, *dir, *most)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, progress io.Writer, dir string, most int) error {
	begun := time.Now()
	m := newMatrix(most)
	faults := newFaults()
	if err := runAll(ctx, progress, append(m.trials(), trialsOf(faults)...)); err != nil {
		return err
	}
	fmt.Fprintf(progress, "all complete and exact, %v\n", time.Since(begun).Round(time.Second))
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "simulation.svg"), m.plot(), 0o666),
		os.WriteFile(filepath.Join(dir, "SIMULATION.md"), report(m, faults), 0o666),
	)
}

// runAll runs the trials, as many at a time as there are processors, the first
// ones first. All are run even if one fails.
func runAll(ctx context.Context, progress io.Writer, trials []*trial) error {
	var mu sync.Mutex // of done, errs and progress
	done := 0
	var errs []error
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, t := range trials {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			began := time.Now()
			err := t.run()
			mu.Lock()
			defer mu.Unlock()
			done++
			errs = append(errs, err)
			fmt.Fprintf(progress, "%3d of %d: %s: %.3f times the bytes, %v, simulated in %v\n", done, len(trials),
				t.Name, t.result.Ratio(), t.result.Time.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(errs...))
}
