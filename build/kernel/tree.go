package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"huck/build/output"
)

// neededSpace is what the source (1.7 GB) and its objects (0.6 GB) take, with room for the next release.
const neededSpace = 3 << 30

// tree is the unpacked source with the objects made from it.
type tree struct {
	dir  string
	jobs int
	log  func(format string, args ...any)
}

func (t *tree) source() string  { return filepath.Join(t.dir, "source") }
func (t *tree) objects() string { return filepath.Join(t.dir, "objects") }
func (t *tree) logFile() string { return filepath.Join(filepath.Dir(t.dir), "build.log") }

// openTree unpacks the source, or takes up the tree that an interrupted build of the same source left. Any other is
// removed, so there is never more than one.
func openTree(ctx context.Context, o Options, in inputs) (*tree, error) {
	t := &tree{dir: filepath.Join(o.Cache, "tree-"+in.source[:16]), jobs: max(1, o.Jobs), log: o.Log}
	if err := output.WriteString(t.logFile(), ""); err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(o.Cache, "tree-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		if dir == t.dir && exists(t.source()) {
			o.Log("going on in %s", t.dir)
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	if exists(t.source()) {
		return t, nil
	}
	return t, t.unpack(ctx, o.Source)
}

// unpack gives the source its name only when all of it is there.
func (t *tree) unpack(ctx context.Context, tarball string) error {
	part := filepath.Join(t.dir, "unpacking")
	if err := os.MkdirAll(part, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "tar", "-xf", tarball, "-C", part, "--strip-components=1")
	if err := t.run(ctx, "unpacking", cmd); err != nil {
		return err
	}
	return os.Rename(part, t.source())
}

// configure lays the fragments over "everything off" and makes sure that all they ask for came out.
func (t *tree) configure(ctx context.Context, wanted []setting) error {
	if err := os.MkdirAll(t.objects(), 0o755); err != nil {
		return err
	}
	fragments := filepath.Join(t.objects(), "fragments.config")
	if err := output.WriteString(fragments, merged(wanted)); err != nil {
		return err
	}
	if err := t.run(ctx, "configuring", t.make(ctx, "KCONFIG_ALLCONFIG="+fragments, "allnoconfig")); err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(t.objects(), ".config"))
	if err != nil {
		return err
	}
	return checkSurvivors(wanted, config)
}

func (t *tree) compile(ctx context.Context) error {
	return t.run(ctx, "compiling", t.make(ctx, "-j"+strconv.Itoa(t.jobs), "bzImage"))
}

func (t *tree) make(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "make", append([]string{"-C", t.source(), "O=" + t.objects()}, append(makeArgs, args...)...)...)
	cmd.Env = makeEnv(os.Getenv("PATH"))
	return cmd
}

func checkSpace(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < neededSpace {
		return fmt.Errorf("%s has %d MB free and building needs %d: make room or give --cache another folder", dir, free>>20, neededSpace>>20)
	}
	return nil
}
