package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/store"
)

// captureJobs read the disk, which is in the page cache for all of them. Only
// capture waits until what it wrote is on the disk.
func (b *imageBench) captureJobs() []*job {
	capture := func(procs int) func(ctx context.Context) (usage, error) {
		return func(ctx context.Context) (usage, error) { return b.capture(ctx, procs) }
	}
	jobs := []*job{
		{Name: "capture", About: "imager capture into an empty store, durably; source in memory", run: capture(0)},
		{Name: "partclone | zstd", About: "partclone.ext4 -c | zstd -T0 -1 into a file; source in memory", run: b.partclone},
		{Name: "zstd", About: "zstd -T0 -1 of the whole disk into a file; source in memory", run: func(ctx context.Context) (usage, error) {
			return timed(ctx, nil, "zstd", "-T0", "-1", "-q", "-f", b.disk, "-o", b.path("disk.zst"))
		}},
		{Name: "dd", About: "dd of the whole disk to /dev/null; source in memory", run: func(ctx context.Context) (usage, error) {
			return timed(ctx, nil, "dd", "if="+b.disk, "of=/dev/null", "bs=1M")
		}},
		{Name: "capture on 1 core", About: "the same as capture with GOMAXPROCS=1", run: capture(1)},
	}
	if runtime.NumCPU() > 1 {
		jobs = append(jobs, &job{Name: "capture on 2 cores", About: "the same as capture with GOMAXPROCS=2", run: capture(2)})
	}
	return jobs
}

// capture captures the disk into a new store with so many cores; 0 is all.
func (b *imageBench) capture(ctx context.Context, procs int) (usage, error) {
	if err := errors.Join(os.RemoveAll(b.work.store()), warm(b.disk)); err != nil {
		return usage{}, err
	}
	syncAll()
	var env []string
	if procs > 0 {
		env = []string{fmt.Sprintf("GOMAXPROCS=%d", procs)}
	}
	var r struct {
		Image   int64 `json:"image_bytes"`
		Encoded int64 `json:"encoded_bytes"`
	}
	u, err := b.imager(ctx, env, &r, "capture", b.disk, "--name", b.name)
	b.used, b.encoded = r.Image, r.Encoded
	return u, err
}

func (b *imageBench) partclone(ctx context.Context) (usage, error) {
	out := b.path("disk.pcl.zst")
	if err := warm(b.disk); err != nil {
		return usage{}, err
	}
	u, err := timed(ctx, nil, "bash", "-c", `set -o pipefail; partclone.ext4 -c -s "$0" -o - -L "$2" 2>/dev/null | zstd -T0 -1 -q -f -o "$1"`, b.disk, out, b.path("partclone.log"))
	if err != nil {
		return u, err
	}
	info, err := os.Stat(out)
	if err == nil {
		b.peer = info.Size()
	}
	return u, err
}

// installJobs write the used bytes into new files.
func (b *imageBench) installJobs() []*job {
	return []*job{
		{Name: "install", About: "imager install into a new file, from a store in memory", run: func(ctx context.Context) (usage, error) {
			u, _, err := b.install(ctx, true)
			return u, err
		}},
		{Name: "dd oflag=direct", About: "dd of the used bytes, in memory, into a new sparse file of the disk's size, with fsync", run: func(ctx context.Context) (usage, error) {
			if err := errors.Join(b.usedFile(), b.sparse("dd")); err != nil {
				return usage{}, err
			}
			syncAll()
			return timed(ctx, nil, "dd", "if="+b.path("used"), "of="+b.path("dd"), "bs=1M", "oflag=direct", "conv=notrunc,fsync")
		}},
		{Name: "decode and hash", About: "the store's chunks, in memory, by our decoder on all cores", run: b.decode},
	}
}

// sparse makes a new file like the one an installation makes.
func (b *imageBench) sparse(name string) error {
	info, err := os.Stat(b.disk)
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(b.path(name)), os.WriteFile(b.path(name), nil, 0o600), os.Truncate(b.path(name), info.Size()))
}

// install puts the image on the target, a new file if it is to be blank, and
// returns what it fetched.
func (b *imageBench) install(ctx context.Context, blank bool) (usage, int64, error) {
	if blank {
		if err := errors.Join(os.RemoveAll(b.path("target")), b.warmStore()); err != nil {
			return usage{}, 0, err
		}
		syncAll()
	}
	var r api.Result
	u, err := b.imager(ctx, nil, &r, "install", b.name, "--to", b.path("target"))
	if err != nil {
		return u, 0, err
	}
	b.memory = max(b.memory, u.memory)
	return u, r.Received["store"], nil
}

// readJobs read the used bytes, from the disk: ours finds the image on the target.
func (b *imageBench) readJobs() []*job {
	return []*job{
		{Name: "install, all in place", About: "imager install onto the same again; target not in memory", run: func(ctx context.Context) (usage, error) {
			if err := evict(b.path("target")); err != nil {
				return usage{}, err
			}
			u, fetched, err := b.install(ctx, false)
			if err == nil && fetched > 0 {
				err = fmt.Errorf("fetched %d bytes of an image that was in place", fetched)
			}
			return u, err
		}},
		{Name: "dd of the used bytes", About: "dd to /dev/null; file not in memory", run: func(ctx context.Context) (usage, error) {
			if err := evict(b.path("used")); err != nil {
				return usage{}, err
			}
			return timed(ctx, nil, "dd", "if="+b.path("used"), "of=/dev/null", "bs=1M")
		}},
	}
}

func (b *imageBench) reimageJob() *job {
	return &job{Name: "install, 3 % changed", About: "imager install after a byte in 3 % of the regions has changed; target not in memory", run: b.reimage}
}

// reimage damages the target and installs anew.
func (b *imageBench) reimage(ctx context.Context) (usage, error) {
	st, img, err := b.openImage(ctx)
	if err != nil {
		return usage{}, err
	}
	f, err := os.OpenFile(b.path("target"), os.O_RDWR, 0)
	if err != nil {
		return usage{}, err
	}
	seen := make(map[uint32]bool)
	b.diff = 0
	for i := 5; i < len(img.Layout.Entries()); i += 33 {
		for r := range img.Layout.Entries()[i].Runs(img.Manifest.DiskSize) {
			var c [1]byte
			if _, err = f.ReadAt(c[:], r.Offset); err == nil {
				_, err = f.WriteAt([]byte{c[0] ^ 1}, r.Offset)
			}
			break
		}
		if err != nil {
			return usage{}, errors.Join(err, f.Close())
		}
		if n := img.Layout.Number(i); !seen[n] {
			seen[n] = true
			encoded, _, _ := st.Lookup(img.Layout.ID(n))
			b.diff += int64(encoded)
		}
	}
	if err := errors.Join(f.Sync(), f.Close(), evict(b.path("target"))); err != nil {
		return usage{}, err
	}
	u, fetched, err := b.install(ctx, false)
	b.fetched = fetched
	if err == nil {
		_, err = output(ctx, b.work.imager, "--quiet", "verify", b.name, "--store", b.work.store(), "--against", b.path("target"))
	}
	return u, err
}

// imager runs the imager on the store and reads its last line into result.
func (b *imageBench) imager(ctx context.Context, env []string, result any, args ...string) (usage, error) {
	var out strings.Builder
	args = append([]string{b.work.imager, "--json", "--quiet"}, append(args, "--store", b.work.store())...)
	u, err := timedTo(ctx, &out, env, args...)
	if err != nil {
		return u, err
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	return u, json.Unmarshal([]byte(lines[len(lines)-1]), result)
}

func (b *imageBench) openImage(ctx context.Context) (*store.Dir, *image.Image, error) {
	st, err := store.Open(b.work.store(), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	tag, err := st.Resolve(ctx, image.Ref{Name: b.name})
	if err != nil {
		return nil, nil, err
	}
	img, err := store.OpenImage(ctx, st, tag.Digest)
	return st, img, err
}

// decode decodes and verifies all chunks, which are in memory before the clock
// starts, on all cores.
func (b *imageBench) decode(ctx context.Context) (usage, error) {
	st, img, err := b.openImage(ctx)
	if err != nil {
		return usage{}, err
	}
	r := st.NewReader()
	defer r.Close()
	l := img.Layout
	encoded := make([][]byte, l.Chunks())
	for n := range encoded {
		if encoded[n], err = r.Encoded(ctx, l.ID(uint32(n)), nil); err != nil {
			return usage{}, err
		}
	}
	start := time.Now()
	var g errgroup.Group
	workers := runtime.NumCPU()
	for w := range workers {
		g.Go(func() error {
			dec, buf := image.NewDecoder(), make([]byte, image.RegionSize+image.DecodeSlack)
			for n := w; n < len(encoded); n += workers {
				if _, err := dec.Decode(buf, encoded[n], l.ID(uint32(n)), l.Size(uint32(n))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	return usage{seconds: time.Since(start).Seconds()}, err
}

// usedFile makes a file of the used bytes, if there is none, and brings it into
// memory.
func (b *imageBench) usedFile() error {
	if _, err := os.Stat(b.path("used")); err == nil {
		return warm(b.path("used"))
	}
	_, img, err := b.openImage(context.Background())
	if err != nil {
		return err
	}
	in, err := os.Open(b.disk)
	if err != nil {
		return err
	}
	defer in.Close() // opened for reading
	out, err := os.Create(b.path("used"))
	if err != nil {
		return err
	}
	for _, e := range img.Layout.Entries() {
		for r := range e.Runs(img.Manifest.DiskSize) {
			if _, err := io.Copy(out, io.NewSectionReader(in, r.Offset, int64(r.Len))); err != nil {
				return errors.Join(err, out.Close())
			}
		}
	}
	return errors.Join(out.Sync(), out.Close())
}

// warmStore brings the store into memory.
func (b *imageBench) warmStore() error {
	packs, err := os.ReadDir(b.work.store() + "/packs")
	for _, p := range packs {
		err = errors.Join(err, warm(b.work.store()+"/packs/"+p.Name()))
	}
	return err
}

// large measures the memory of an installation of a large image: 100 GiB with a
// block in every region, all different.
func (b *imageBench) large(ctx context.Context) error {
	const regions = 100 << 30 / image.RegionSize
	fmt.Fprintf(b.log, "image: making an image of %d regions\n", regions)
	b.name = "large"
	if err := sparseImage(ctx, b.work.store(), b.name, regions); err != nil {
		return err
	}
	var r api.Result
	j := &job{Name: "install, 100 GiB", About: "imager install --to discard of a block in each of 409600 regions", run: func(ctx context.Context) (usage, error) {
		return b.imager(ctx, nil, &r, "install", b.name, "--to", "discard")
	}}
	b.jobs = append(b.jobs, j)
	if err := b.once(ctx, j, 0, 1); err != nil {
		return err
	}
	idle, err := timed(ctx, nil, b.work.imager, "--help")
	b.memory = max(b.memory, j.Memory) - idle.memory
	return err
}

// timed runs a program to its end.
func timed(ctx context.Context, env []string, args ...string) (usage, error) {
	return timedTo(ctx, io.Discard, env, args...)
}

// timedTo runs a program under time(1): what wait4 says of a child's memory
// begins with what its parent had, and that is more than many a program needs.
func timedTo(ctx context.Context, out io.Writer, env []string, args ...string) (usage, error) {
	cmd := exec.CommandContext(ctx, "time", append([]string{"-q", "-f", "\n%M"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	var errs strings.Builder
	cmd.Stdout, cmd.Stderr = out, &errs
	start := time.Now()
	err := cmd.Run()
	u := usage{seconds: time.Since(start).Seconds()}
	said := strings.TrimSpace(errs.String())
	if err != nil {
		return u, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, said)
	}
	u.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	kib, err := strconv.ParseInt(said[strings.LastIndexByte(said, '\n')+1:], 10, 64)
	u.memory = kib << 10
	return u, err
}

func syncAll() { unix.Sync() }

// warm reads a file, so that it is in memory.
func warm(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}

// evict takes a file out of the page cache.
func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return errors.Join(err, f.Close())
}

// writeJobs prints the runs for people.
func writeJobs(w io.Writer, b *imageBench) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "job\tseconds\t\tCPU s\tMB/s used\tMiB\twhat")
	for _, j := range b.jobs {
		s := summarise(j.Seconds)
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%.2f\t%.0f\t%d\t%s\n", j.Name, s.Median, spread(s), summarise(j.CPU).Median, float64(b.used)/1e6/s.Median, j.Memory>>20, j.About)
	}
	return t.Flush()
}
