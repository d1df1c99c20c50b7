// Package kernel builds the appliance's kernel from Debian's kernel source and the fragments in kernel-config.
//
// A built kernel is kept in a cache under the hash of everything that went into it. The source is unpacked only while a
// kernel is being built: 1.9 GB that are gone after success, and stay after a failure or an interruption so that the next
// build continues where this one stopped, or removes them if it finds its kernel in the cache.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"huck/build/output"
)

// Options say what to build from and where to keep it.
type Options struct {
	Source    string // linux-source-*.tar.xz
	Fragments string // folder of *.config
	Cache     string // folder for built kernels and the tree under construction
	Jobs      int    // compilers at once
	Log       func(format string, args ...any)
}

// Build returns the path of the kernel these options describe, building it if the cache does not have it.
func Build(ctx context.Context, o Options) (string, error) {
	wanted, err := readFragments(os.DirFS(o.Fragments))
	if err != nil {
		return "", fmt.Errorf("%s: %w", o.Fragments, err)
	}
	if err := checkTools(); err != nil {
		return "", err
	}
	in, err := describeInputs(ctx, o.Source, wanted)
	if err != nil {
		return "", err
	}
	result := filepath.Join(o.Cache, in.key(), "bzImage")
	if exists(result) {
		o.Log("in the cache: %s", result)
		return result, tidy(o.Cache)
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, o.Cache, o.Log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(result) { // whoever held the lock built it
		return result, nil
	}
	return result, buildInto(ctx, result, in, wanted, o)
}

// buildInto does the work that the cache could not save. The result appears last and whole.
func buildInto(ctx context.Context, result string, in inputs, wanted []setting, o Options) error {
	if err := checkSpace(o.Cache); err != nil {
		return err
	}
	t, err := openTree(ctx, o, in)
	if err != nil {
		return err
	}
	err = t.configure(ctx, wanted)
	if err == nil {
		err = t.compile(ctx)
	}
	if err != nil {
		o.Log("%s stays for the next attempt; remove it if there is to be none", t.dir)
		return err
	}
	if err := t.store(result, in); err != nil {
		return err
	}
	if err := os.RemoveAll(t.dir); err != nil {
		return fmt.Errorf("the kernel is built, but its source could not be removed: %w", err)
	}
	return nil
}

// store keeps beside the kernel what is needed to explain it: its configuration and its inputs.
func (t *tree) store(result string, in inputs) error {
	dir := filepath.Dir(result)
	if err := output.WriteString(filepath.Join(dir, "inputs"), in.String()); err != nil {
		return err
	}
	if err := output.Copy(filepath.Join(dir, "config"), filepath.Join(t.objects(), ".config")); err != nil {
		return err
	}
	return output.Copy(result, filepath.Join(t.objects(), "arch", "x86", "boot", "bzImage"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
