package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// shortRounds is how many times as often as other jobs those run that take less
// than a second: what the machine has to read from and write to varies most.
const shortRounds = 3

type imageCmd struct {
	Size   int64  `default:"1024" placeholder:"MIB" help:"About how much of the disk is used."`
	From   string `default:"/usr" placeholder:"DIR" help:"Where the disk's files come from."`
	Disk   string `placeholder:"FILE" help:"Measure with this file, an ext4 filesystem, instead of making one."`
	Runs   int    `default:"3" help:"How often each job runs, short ones three times as often; the jobs take turns."`
	Dir    string `placeholder:"DIR" help:"Where to put disks and store, 8 times --size; a new folder in the temporary one by default."`
	Imager string `placeholder:"FILE" help:"The imager to measure; built from this checkout by default."`
	JSON   string `name:"json" placeholder:"FILE" help:"Write everything measured to a file."`
}

// imageBench is a run: jobs that read and write the same disk take turns.
type imageBench struct {
	cmd  *imageCmd
	work *workload
	log  io.Writer
	disk string
	// name is the image's name in the workload's store.
	name string
	jobs []*job
	// used is the bytes of the used blocks, encoded what they take in the store,
	// peer what they take as partclone and zstd store them.
	used, encoded, peer int64
	// memory is the most that an installation had resident, in the end above an
	// idle process.
	memory int64
	// diff is what of the encoded chunks a reimage should fetch, fetched what it did.
	diff, fetched int64
}

// job is something measured and what its runs took.
type job struct {
	Name string `json:"name"`
	// About says what it does, and with what in the page cache.
	About   string    `json:"about"`
	Seconds []float64 `json:"seconds"`
	CPU     []float64 `json:"cpu_seconds"`
	// Memory is the most that was resident, in bytes.
	Memory int64 `json:"memory"`
	run    func(ctx context.Context) (usage, error)
}

// usage is what one run took.
type usage struct {
	seconds, cpu float64
	memory       int64
}

// Run measures and prints.
func (c *imageCmd) Run(ctx context.Context, env Env) (err error) {
	if c.Runs < 1 || c.Size < 16 {
		return fmt.Errorf("image: --runs %d, --size %d; %w", c.Runs, c.Size, errUsage)
	}
	for _, p := range []string{"partclone.ext4", "zstd", "dd", "mkfs.ext4", "debugfs", "e2fsck", "bash", "time"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("image: %v: build/bootstrap.sh bench installs it", err)
		}
	}
	b := &imageBench{cmd: c, log: env.Stderr, name: "bench"}
	if b.work, err = newWorkload(ctx, c.Imager); err != nil {
		return err
	}
	if c.Dir != "" {
		if b.work.dir, err = os.MkdirTemp(c.Dir, "huck-bench-"); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, b.work.remove()) }()
	if err := b.measure(ctx); err != nil {
		return err
	}
	return c.report(env, b)
}

func (b *imageBench) path(name string) string { return filepath.Join(b.work.dir, name) }

// measure makes the disk and runs all jobs.
func (b *imageBench) measure(ctx context.Context) error {
	b.disk = b.cmd.Disk
	if b.disk == "" {
		b.disk = b.path("disk")
		fmt.Fprintf(b.log, "image: making a disk of files from %s\n", b.cmd.From)
		if err := makeDisk(ctx, b.disk, b.cmd.From, b.cmd.Size<<20); err != nil {
			return err
		}
	}
	for _, group := range []struct {
		rounds int
		jobs   []*job
	}{
		{b.cmd.Runs, b.captureJobs()},
		{shortRounds * b.cmd.Runs, b.installJobs()},
		{shortRounds * b.cmd.Runs, b.readJobs()},
		{b.cmd.Runs, []*job{b.reimageJob()}},
	} {
		if err := b.rounds(ctx, group.rounds, group.jobs); err != nil {
			return err
		}
	}
	return b.large(ctx)
}

// rounds runs jobs in turn, every second time backwards: what one leaves behind,
// as in the caches of the disk, does not always meet the same one.
func (b *imageBench) rounds(ctx context.Context, rounds int, jobs []*job) error {
	b.jobs = append(b.jobs, jobs...)
	for round := range rounds {
		for i := range jobs {
			if round%2 != 0 {
				i = len(jobs) - 1 - i
			}
			if err := b.once(ctx, jobs[i], round, rounds); err != nil {
				return fmt.Errorf("%s: %w", jobs[i].Name, err)
			}
		}
	}
	return nil
}

// once runs a job while nothing that earlier ones wrote is on its way to the disk.
func (b *imageBench) once(ctx context.Context, j *job, run, runs int) error {
	syncAll()
	u, err := j.run(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(b.log, "  %-24s run %d of %d, load %s: %.2f s\n", j.Name, run+1, runs, load(), u.seconds)
	j.Seconds = append(j.Seconds, u.seconds)
	j.CPU = append(j.CPU, u.cpu)
	j.Memory = max(j.Memory, u.memory)
	return nil
}

// seconds is how long each run of a job took.
func (b *imageBench) seconds(name string) []float64 {
	for _, j := range b.jobs {
		if j.Name == name {
			return j.Seconds
		}
	}
	return nil
}

// ratio summarises the time of a job over that of the slowest of others, round
// by round: what disturbs a round disturbs all that run in it.
func (b *imageBench) ratio(name string, others ...string) summary {
	var ratios []float64
	for round, s := range b.seconds(name) {
		slowest := 0.0
		for _, o := range others {
			slowest = max(slowest, b.seconds(o)[round])
		}
		ratios = append(ratios, s/slowest)
	}
	return summarise(ratios)
}

// verdicts holds the figures against the bars of DESIGN.md section 11.
func (b *imageBench) verdicts() []verdict {
	var all []verdict
	add := func(what string, figure, limit float64, least bool) {
		all = append(all, verdict{Scenario: "image", Tool: "huck", What: what, Figure: figure, Limit: limit, Least: least,
			Held: least && figure >= limit || !least && figure <= limit})
	}
	ratio := func(what string, limit float64, least bool, name string, others ...string) {
		r := b.ratio(name, others...)
		add(strings.TrimSpace(what+" "+spread(r)), r.Median, limit, least)
	}
	ratio("time of partclone | zstd / of capture", 2, true, "partclone | zstd", "capture")
	add("bytes stored / partclone's and zstd's", float64(b.encoded)/float64(b.peer), 1.02, false)
	if runtime.NumCPU() > 1 {
		ratio("time of capture on 1 core / on 2", 1.7, true, "capture on 1 core", "capture on 2 cores")
	}
	ratio("time of install / of the slower of dd and decoding", 1.15, false, "install", "dd oflag=direct", "decode and hash")
	add("MiB of an installation above an idle process", float64(b.memory)/(1<<20), 96, false)
	ratio("time of dd / of an install with all in place", 0.8, true, "dd of the used bytes", "install, all in place")
	add("bytes fetched / bytes of the 3 % changed", float64(b.fetched)/float64(b.diff), 1.05, false)
	return all
}

// report prints what was measured.
func (c *imageCmd) report(env Env, b *imageBench) error {
	fmt.Fprintf(env.Stdout, "%d cores, %s, %s; %d MiB used, %d MiB encoded (%.1f %% more than partclone | zstd)\n\n",
		runtime.NumCPU(), kernel(), time.Now().UTC().Format(time.DateTime), b.used>>20, b.encoded>>20, 100*(float64(b.encoded)/float64(b.peer)-1))
	if err := writeJobs(env.Stdout, b); err != nil {
		return err
	}
	fmt.Fprintln(env.Stdout)
	verdicts, held := b.verdicts(), true
	for _, v := range verdicts {
		held = held && v.Held
		fmt.Fprintln(env.Stdout, v)
	}
	return conclude(c.JSON, held, map[string]any{"used_bytes": b.used,
		"encoded_bytes": b.encoded, "partclone_zstd_bytes": b.peer, "jobs": b.jobs, "verdicts": verdicts})
}
