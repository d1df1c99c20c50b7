package tree

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"huck/imager/decompress"
)

// setting is a command of debugfs about a file of the finished filesystem: the
// file's path below the root, and what stands before and after the file.
type setting struct{ path, before, after string }

// rootInode is the number of the root's inode in any ext2, 3 or 4.
const rootInode = "2"

// attributes has debugfs do what src wants of it. Files it gets by the numbers of
// their inodes: it looks through a folder from its beginning for every path.
func (m *maker) attributes(ctx context.Context, src *source) error {
	if len(src.settings) == 0 {
		_, err := m.debugfs(ctx, src.script, m.meter(StepAttributes))
		return err
	}
	listing, err := m.debugfs(ctx, append(slices.Clone(src.script), src.listings()...), nil)
	if err != nil {
		return err
	}
	inodes := inodeNumbers(listing)
	script := make([]string, len(src.settings))
	for i, s := range src.settings {
		n, ok := inodes[s.path]
		if !ok {
			return fmt.Errorf("/%s is not in the root filesystem that mkfs.ext4 has made", s.path)
		}
		script[i] = fmt.Sprintf("%s <%s>%s", s.before, n, s.after)
	}
	_, err = m.debugfs(ctx, script, m.meter(StepAttributes))
	return err
}

// listings are the commands that list the folders of all files with settings.
func (s *source) listings() []string {
	dirs := make(map[string]bool)
	for _, set := range s.settings {
		dirs[clean(path.Dir("/"+set.path))] = true
	}
	var script []string
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		script = append(script, listCommand+quote("/"+dir))
	}
	return script
}

const (
	// listCommand prints each file of a folder as /INODE/MODE/UID/GID/NAME/SIZE/.
	listCommand = "ls -p "
	// prompt stands before each command in what debugfs prints.
	prompt = "debugfs: "
)

// inodeNumbers returns the numbers of inodes by path below the root.
func inodeNumbers(listing []byte) map[string]string {
	numbers := map[string]string{"": rootInode}
	dir := ""
	for line := range bytes.Lines(listing) {
		line := strings.TrimSuffix(string(line), "\n")
		if command, ok := strings.CutPrefix(line, prompt); ok {
			dir = clean(strings.Trim(strings.TrimPrefix(command, listCommand), `"`))
			continue
		}
		f := strings.Split(line, "/")
		if len(f) < 6 || f[5] == "." || f[5] == ".." {
			continue
		}
		if _, err := strconv.ParseUint(f[1], 10, 32); err == nil {
			numbers[path.Join(dir, f[5])] = f[1]
		}
	}
	return numbers
}

// debugfs runs a script on the root filesystem and returns what it printed. meter,
// if there is one, is told how far it is.
func (m *maker) debugfs(ctx context.Context, script []string, meter *decompress.Meter) ([]byte, error) {
	if len(script) == 0 {
		return nil, nil
	}
	text := strings.Join(script, "\n") + "\n"
	var stdin io.Reader = strings.NewReader(text)
	if meter != nil {
		meter.Expect(int64(len(text)))
		stdin = meter.Reader(stdin)
	}
	var out bytes.Buffer
	said, err := runTo(ctx, stdin, &out, "debugfs", "-w", "-f", "-", fmt.Sprintf("%s?offset=%d", m.disk, m.l.rootStart()))
	if err != nil {
		return nil, err
	}
	// It ends with 0 whatever happens, and beside its version it says on
	// standard error only what went wrong.
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs ") {
			return nil, fmt.Errorf("debugfs: %s", line)
		}
	}
	return out.Bytes(), nil
}
