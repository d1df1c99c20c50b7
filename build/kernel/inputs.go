package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// makeArgs are what every make is called with, beside folders and the number of jobs: the kernel notes who built it,
// where and when, and two builds of the same inputs must be the same bytes.
var makeArgs = []string{
	"ARCH=x86_64",
	"KBUILD_BUILD_USER=huck",
	"KBUILD_BUILD_HOST=huck",
	"KBUILD_BUILD_VERSION=1",
	"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970",
	"LOCALVERSION=",
}

// makeEnv is the whole environment of make: nothing of the user's leaks into the kernel.
func makeEnv(path string) []string {
	return []string{"PATH=" + path, "LC_ALL=C", "TZ=UTC", "HOME=/nonexistent"}
}

// tools are what the kernel's build calls and a bare system lacks.
var tools = []string{"make", "gcc", "ld", "flex", "bison", "bc", "perl", "xz", "zstd", "tar"}

func checkTools() error {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s: `build/bootstrap.sh kernel` installs what a kernel needs, KERNEL=FILE takes a ready one",
			strings.Join(missing, ", "))
	}
	return nil
}

// inputs is all that decides the kernel's bytes.
type inputs struct {
	source string   // SHA-256 of the tarball
	tools  []string // first lines of their versions
	config string
}

func describeInputs(ctx context.Context, tarball string, wanted []setting) (inputs, error) {
	in := inputs{config: merged(wanted)}
	var err error
	if in.source, err = hashFile(tarball); errors.Is(err, fs.ErrNotExist) {
		return in, fmt.Errorf("no kernel source: %w: `build/bootstrap.sh kernel` installs it, --source names another place, KERNEL=FILE takes a ready kernel", err)
	} else if err != nil {
		return in, err
	}
	for _, tool := range []string{"gcc", "ld", "zstd"} {
		version, err := firstLine(ctx, tool, "--version")
		if err != nil {
			return in, err
		}
		in.tools = append(in.tools, version)
	}
	return in, nil
}

// String is what the key is the hash of, and is kept beside the kernel for people.
func (in inputs) String() string {
	return fmt.Sprintf("source sha256 %s\ntools %q\nmake %q\n\n%s", in.source, in.tools, makeArgs, in.config)
}

func (in inputs) key() string {
	sum := sha256.Sum256([]byte(in.String()))
	return hex.EncodeToString(sum[:8])
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func firstLine(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line), nil
}
