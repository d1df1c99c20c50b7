// Package decompress reads compressed files, which it tells by their content:
// gzip, zstd and bzip2 by libraries, xz, lz4 and lzop by the distribution's
// programs.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"huck/imager/disk"
)

const (
	// bufferSize is how many bytes are read at a time.
	bufferSize = 1 << 20
	// zstdMemory bounds in bytes what a zstd frame may ask for.
	zstdMemory = 1 << 30
)

// Refused tells why a file cannot be decompressed.
type Refused = disk.Refused

// Stream is what a file has inside.
type Stream struct {
	*bufio.Reader
	// Kind is how it was compressed, empty if it was not.
	Kind string
	done func()
}

// Close ends the stream, whether or not all was read; not what it reads from.
func (s *Stream) Close() { s.done() }

// A program decompresses standard input to standard output.
type program struct {
	command []string
	pkg     string // Debian's name, and others'
}

// kinds tells how a file is compressed by its first bytes. What has neither a
// library nor a program is refused.
var kinds = []struct {
	name, magic string
	library     func(io.Reader) (io.Reader, func(), error)
	program     program
}{
	{"gzip", "\x1f\x8b\x08", ungzip, program{}},
	{"zstd", "\x28\xb5\x2f\xfd", unzstd, program{}},
	{"bzip2", "BZh", unbzip2, program{}},
	// xz's highest level needs 65 MiB.
	{"xz", "\xfd7zXZ\x00", nil, program{[]string{"xz", "--decompress", "--stdout", "--memlimit-decompress=256MiB"}, "xz-utils"}},
	{"lz4", "\x04\x22\x4d\x18", nil, program{[]string{"lz4", "-d", "-c", "-q"}, "lz4"}},
	{"lzop", "\x89LZO\x00\r\n\x1a\n", nil, program{[]string{"lzop", "-d", "-c", "-q"}, "lzop"}},
	{"lzip", "LZIP", nil, program{}},
	{"lrzip", "LRZI", nil, program{}},
}

// Kind tells by a file's first bytes which program compressed it; empty is none.
func Kind(head []byte) string {
	for _, k := range kinds {
		if bytes.HasPrefix(head, []byte(k.magic)) {
			return k.name
		}
	}
	return ""
}

// Open opens what is inside in, which messages call name. A file that is not
// compressed is read as it is. The error is a *Refused for a kind that is not
// known or whose program is not there. Ending ctx ends the stream.
func Open(ctx context.Context, name string, in io.Reader) (*Stream, error) {
	b := bufio.NewReaderSize(in, bufferSize)
	head, _ := b.Peek(9) // what is not there does not match; reading will tell
	kind := Kind(head)
	for _, k := range kinds {
		if k.name != kind {
			continue
		}
		var r io.Reader
		var done func()
		var err error
		switch {
		case k.library != nil:
			r, done, err = k.library(b)
		case k.program.command != nil:
			r, done, err = k.program.start(ctx, b)
		default:
			err = &Refused{Device: name, Why: "it is compressed by " + k.name + ": decompress it with " + k.name + " -d"}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return &Stream{bufio.NewReaderSize(r, bufferSize), k.name, done}, nil
	}
	return &Stream{b, "", func() {}}, nil
}

func ungzip(in io.Reader) (io.Reader, func(), error) {
	z, err := gzip.NewReader(in)
	return z, func() {}, err
}

func unbzip2(in io.Reader) (io.Reader, func(), error) { return bzip2.NewReader(in), func() {}, nil }

func unzstd(in io.Reader) (io.Reader, func(), error) {
	z, err := zstd.NewReader(in, zstd.WithDecoderMaxMemory(zstdMemory))
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// start starts the program. done ends it, whether or not all was read.
func (p program) start(ctx context.Context, in io.Reader) (r io.Reader, done func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	x := &process{cmd: exec.CommandContext(ctx, p.command[0], p.command[1:]...)}
	x.cmd.Stdin, x.cmd.Stderr = in, &x.said
	if x.out, err = x.cmd.StdoutPipe(); err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			err = &Refused{Device: p.command[0], Why: "it is not in PATH: install the package " + p.pkg}
		}
		return nil, nil, err
	}
	return x, func() { cancel(); _ = x.wait() }, nil
}

// process is what a program writes.
type process struct {
	cmd   *exec.Cmd
	out   io.Reader
	said  bytes.Buffer
	ended bool
	err   error
}

// Read implements io.Reader. The end is one only if the program found its data
// sound.
func (x *process) Read(b []byte) (int, error) {
	n, err := x.out.Read(b)
	if err != nil {
		if werr := x.wait(); werr != nil {
			err = werr
		}
	}
	return n, err
}

// wait waits for the program once.
func (x *process) wait() error {
	if !x.ended {
		x.ended = true
		if err := x.cmd.Wait(); err != nil {
			x.err = fmt.Errorf("%s: %w: %s", x.cmd.Args[0], err, strings.TrimSpace(x.said.String()))
		}
	}
	return x.err
}
