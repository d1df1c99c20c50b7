package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"huck/imager/api"
	"huck/imager/bench/rig"
)

type castCmd struct {
	Scenario []string      `placeholder:"NAME,…" help:"What to measure; everything by default. --list tells what there is."`
	N        []int         `placeholder:"N,…" help:"Numbers of receivers instead of each scenario's own."`
	Size     int64         `placeholder:"MIB" help:"Size of the file in MiB instead of each scenario's own."`
	Rate     string        `placeholder:"RATE" help:"Rate of the links, e.g. 50M, instead of each scenario's own."`
	Runs     int           `placeholder:"N" help:"How often each; the scenario's own by default."`
	Tools    []string      `default:"huck,udpcast,uftp" help:"Programs to measure."`
	SendRate string        `placeholder:"RATE" help:"--rate for imager send; without it the sender finds the rate itself."`
	Imager   string        `placeholder:"FILE" help:"The imager to measure; built from this checkout by default."`
	Timeout  time.Duration `help:"Of one transfer; by default a minute and three times what the slowest link needs."`
	Offload  bool          `help:"Leave segmentation offloads on: bytes are then undercounted, and loss drops whole bursts."`
	JSON     string        `name:"json" placeholder:"FILE" help:"Write everything measured to a file."`
	Keep     string        `placeholder:"DIR" help:"Keep the programs' logs in this folder."`
	List     bool          `help:"Say what scenarios there are."`
}

// Run measures and prints.
func (c *castCmd) Run(ctx context.Context, env Env) error {
	chosen, err := scenariosNamed(c.Scenario)
	if err != nil {
		return err
	}
	if c.List {
		for _, s := range chosen {
			fmt.Fprintf(env.Stdout, "%-11s %s\n", s.name, s.about)
		}
		return nil
	}
	b, err := c.prepare(ctx, env)
	if err != nil {
		return err
	}
	ran := 0
	for _, s := range chosen {
		if err = b.scenario(ctx, s); err != nil {
			break
		}
		ran++
	}
	// Last, since the memory that it takes would count as the programs'.
	verify, verr := verifyCost()
	err = errors.Join(err, verr)
	for _, r := range b.results {
		if r.Tool == "huck" {
			r.Verify = verify
		}
	}
	var verdicts []verdict
	for _, s := range chosen[:ran] {
		verdicts = append(verdicts, judge(s, b.results)...)
	}
	return errors.Join(err, b.work.remove(), c.report(env, b, verdicts))
}

// bench is a run of the program.
type bench struct {
	cmd     *castCmd
	rate    int64 // 0 is the scenario's
	tools   []tool
	work    *workload
	idle    int64
	polite  bool // imager send knows --polite
	log     io.Writer
	results results
}

func (c *castCmd) prepare(ctx context.Context, env Env) (*bench, error) {
	b := &bench{cmd: c, log: env.Stderr}
	var err error
	if c.Rate != "" {
		if b.rate, err = api.ParseRate(c.Rate); err != nil {
			return nil, fmt.Errorf("--rate: %v; %w", err, errUsage)
		}
	}
	var programs []string
	for _, name := range c.Tools {
		t, err := toolNamed(name)
		if err != nil {
			return nil, err
		}
		b.tools = append(b.tools, t)
		programs = append(programs, t.needs...)
	}
	if i := slices.IndexFunc(c.N, func(n int) bool { return n < 1 || n > 1000 }); i >= 0 {
		return nil, fmt.Errorf("--n %d: 1 to 1000 receivers; %w", c.N[i], errUsage)
	}
	if err := rig.Supported(programs...); err != nil {
		return nil, err
	}
	if b.work, err = newWorkload(ctx, c.Imager); err != nil {
		return nil, err
	}
	if b.idle, err = b.work.idleMemory(ctx); err == nil {
		b.polite, err = b.work.has(ctx, "send", "--polite")
	}
	if err != nil {
		return nil, errors.Join(err, b.work.remove())
	}
	return b, nil
}

// scenario runs all trials of a scenario, tool by tool.
func (b *bench) scenario(ctx context.Context, s scenario) error {
	fmt.Fprintf(b.log, "%s: %s\n", s.name, s.about)
	if s.name == "polite" && !b.polite {
		fmt.Fprintf(b.log, "  not measured: imager send has no --polite\n")
		return nil
	}
	for _, t := range b.tools {
		if s.only != "" && s.only != t.name {
			continue
		}
		for _, n := range or(b.cmd.N, s.n) {
			plain := trial{Scenario: s.name, Tool: t.name, N: n, Size: or1(b.cmd.Size, s.mib) << 20, Rate: or1(b.rate, s.rate), Timeout: b.cmd.Timeout}
			for _, tr := range s.trials(plain) {
				if tr.N < 1 {
					return fmt.Errorf("scenario %s needs more receivers than %d; %w", s.name, n, errUsage)
				}
				if err := b.measure(ctx, t, tr, or1(b.cmd.Runs, s.runs)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func or(a, b []int) []int {
	if len(a) > 0 {
		return a
	}
	return b
}

func or1[T int | int64](a, b T) T {
	if a > 0 {
		return a
	}
	return b
}

// measure runs a trial some times.
func (b *bench) measure(ctx context.Context, t tool, tr trial, runs int) error {
	r := &result{trial: tr, Idle: b.idle}
	b.results = append(b.results, r)
	for run := range runs {
		fmt.Fprintf(b.log, "  %s %s n=%d, run %d of %d, load %s: ", t.name, name(tr), tr.N, run+1, runs, load())
		dir, err := b.logs(tr, run)
		if err != nil {
			return err
		}
		x := &transfer{trial: tr, tool: t, work: b.work, sendRate: b.cmd.SendRate, offload: b.cmd.Offload, dir: dir}
		out, err := x.run(ctx)
		if err != nil {
			fmt.Fprintf(b.log, "%v\n", err)
			return err
		}
		r.Runs = append(r.Runs, out)
		fmt.Fprintf(b.log, "%.2f s, %d of %d, %.3f times the payload sent\n", out.Seconds, out.Complete, out.Expected, float64(out.Sent)/r.payload())
		if out.Err != "" {
			fmt.Fprintf(b.log, "    %s\n", strings.ReplaceAll(strings.TrimSpace(out.Err), "\n", "\n    "))
		}
		if b.cmd.Keep == "" {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// logs makes the folder for the logs of one run.
func (b *bench) logs(tr trial, run int) (string, error) {
	parent := b.cmd.Keep
	if parent == "" {
		parent = b.work.dir
	}
	dir := filepath.Join(parent, fmt.Sprintf("%s-%s-%d-%d", strings.ReplaceAll(name(tr), " ", "-"), tr.Tool, tr.N, run+1))
	return dir, os.MkdirAll(dir, 0o755)
}

// load is how busy the machine is besides: what runs beside a measurement
// spoils it.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// report prints what was measured, also where a later scenario failed.
func (c *castCmd) report(env Env, b *bench, verdicts []verdict) error {
	var all results // those that ran to their end at least once
	for _, r := range b.results {
		if len(r.Runs) > 0 {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintf(env.Stdout, "%d cores, %s, %s\n\n", runtime.NumCPU(), kernel(), time.Now().UTC().Format(time.DateTime))
	if err := writeTable(env.Stdout, all); err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(r *result) bool { return r.Verify > 0 }); i >= 0 {
		fmt.Fprintf(env.Stdout, "Decoding and hashing what is stored raw takes %.2f of huck's CPU r.\n", all[i].Verify)
	}
	fmt.Fprintln(env.Stdout)
	held := true
	for _, v := range verdicts {
		held = held && v.Held
		fmt.Fprintln(env.Stdout, v)
	}
	for _, s := range peersBetter(all) {
		fmt.Fprintln(env.Stdout, "peer better:", s)
	}
	return conclude(c.JSON, held, map[string]any{"results": all, "verdicts": verdicts})
}

// conclude writes what was measured, and where, to the file of that name, if it
// has one, and fails if a bar was not held.
func conclude(file string, held bool, doc map[string]any) error {
	if file != "" {
		doc["cores"], doc["kernel"] = runtime.NumCPU(), kernel()
		b, err := json.MarshalIndent(doc, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if !held {
		return errBar
	}
	return nil
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
