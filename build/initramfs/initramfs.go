// Package initramfs packs the appliance's root file system: one static program, /init, the names it answers to, and a few
// empty folders.
//
// The same sources, Go version, firmware and overlay give the same bytes, whoever builds them, where and when.
package initramfs

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"huck/build/output"
)

// Options say what to pack and where to put it.
type Options struct {
	Root     string // the checkout; the program is Root/initramfs/init
	Firmware string // folder for /lib/firmware, or ""
	Overlay  string // folder laid over the root, or ""
	Out      string // the archive
	Log      func(format string, args ...any)
}

// Build compiles init and writes the archive.
func Build(ctx context.Context, o Options) error {
	temp, err := os.MkdirTemp("", "huck-initramfs-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, "init")
	if err := compile(ctx, o.Root, "./initramfs/init", binary); err != nil {
		return err
	}
	names, err := commands(ctx, binary)
	if err != nil {
		return err
	}
	a, err := fill(o, binary, names)
	if err != nil {
		return err
	}
	o.Log("%d commands, %d files and folders", len(names), len(a.entries))
	return output.Write(o.Out, a.compress)
}

// BuildTools writes an archive to lay over Build's: the imager as a command of the rescue shell. The kernel unpacks
// archives that stand one behind the other in one file.
func BuildTools(ctx context.Context, o Options) error {
	temp, err := os.MkdirTemp("", "huck-initramfs-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, "imager")
	if err := compile(ctx, o.Root, "./imager", binary); err != nil {
		return err
	}
	a := newArchive()
	if err := a.addFile("bbin/imager", binary, 0o755); err != nil {
		return err
	}
	return output.Write(o.Out, a.compress)
}

func fill(o Options, binary string, names []string) (*archive, error) {
	a := newArchive()
	a.skeleton()
	if err := a.addFile("init", binary, 0o755); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := a.add(cpio.Symlink("bbin/"+name, "../init")); err != nil {
			return nil, err
		}
	}
	if o.Firmware != "" {
		if err := a.addTree("lib/firmware", o.Firmware); err != nil {
			return nil, fmt.Errorf("firmware: %w", err)
		}
	}
	if o.Overlay != "" {
		if err := a.addTree("", o.Overlay); err != nil {
			return nil, fmt.Errorf("overlay: %w", err)
		}
	}
	return a, nil
}

// compile builds a program as one static file without a trace of where it was built.
func compile(ctx context.Context, root, program, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", binary, program)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "PWD="+root)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", program, err, text)
	}
	return checkStatic(program, binary)
}

func checkStatic(program, binary string) error {
	f, err := elf.Open(binary)
	if err != nil {
		return fmt.Errorf("%s is no program for Linux: %w", binary, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s asks for a dynamic linker, and the initramfs has none: something in it needs cgo", program)
		}
	}
	return nil
}

// commands asks the program which rescue commands it answers to, one name a line.
func commands(ctx context.Context, binary string) ([]string, error) {
	cmd := exec.CommandContext(ctx, binary, "--list-commands")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("init --list-commands: %w\n%s", err, stderr.String())
	}
	names := strings.Fields(string(text))
	for _, name := range names {
		if !fs.ValidPath(name) || strings.Contains(name, "/") || name == "." {
			return nil, fmt.Errorf("init --list-commands: %q is no name for a command", name)
		}
	}
	return names, nil
}

// compress writes the archive as one zstd frame. One goroutine, a fixed level and this library's version, pinned in
// go.mod, decide its bytes. The kernel checks the frame's checksum before it runs anything.
func (a *archive) compress(w io.Writer) error {
	z, err := zstd.NewWriter(w,
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderCRC(true))
	if err != nil {
		return err
	}
	return errors.Join(a.write(z), z.Close())
}
