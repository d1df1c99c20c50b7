package tree

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"huck/imager/decompress"
)

// source is a tree as mkfs.ext4 takes it.
type source struct {
	// dir is an absolute path.
	dir string
	// script is what debugfs is to do once the filesystem is made.
	script []string
	// settings are then made, in this order.
	settings []setting
}

func (s *source) later(commands ...string) { s.script = append(s.script, commands...) }

func (s *source) set(name, before, after string) {
	s.settings = append(s.settings, setting{name, before, after})
}

// quote makes one word of a path for debugfs.
func quote(p string) string { return `"` + p + `"` }

// open opens the tree: a folder as it is, an archive or OCI layout unpacked.
func (m *maker) open(ctx context.Context) (*source, error) {
	st, err := os.Stat(m.cfg.Tree)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return m.unpack(func(u *unpacking) error { return m.archive(ctx, u) })
	}
	if _, err := os.Stat(filepath.Join(m.cfg.Tree, "oci-layout")); err == nil {
		return m.unpack(func(u *unpacking) error { return m.layers(ctx, u) })
	}
	dir, err := filepath.Abs(m.cfg.Tree)
	if err != nil {
		return nil, err
	}
	s := &source{dir: dir}
	s.later(fmt.Sprintf("set_inode_field / mode 0%o", modeDir|st.Mode().Perm()))
	return s, nil
}

// unpack unpacks what fill takes from archives. Owners, modes, device nodes
// and extended attributes are set in the finished filesystem, so that it needs
// no rights and is the same for whoever does it.
func (m *maker) unpack(fill func(u *unpacking) error) (*source, error) {
	s := &source{dir: filepath.Join(m.work, "root")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacking{root: root, work: m.work, inodes: map[string]inode{"": {mode: modeDir | 0o755}}}
	if err := fill(u); err != nil {
		return nil, err
	}
	return s, u.finish(s)
}

// archive unpacks the tree from a tar archive.
func (m *maker) archive(ctx context.Context, u *unpacking) error {
	f, err := os.Open(m.cfg.Tree)
	if err != nil {
		return err
	}
	defer f.Close() // opened for reading
	st, err := f.Stat()
	if err != nil {
		return err
	}
	meter := m.meter(StepUnpack)
	meter.Expect(st.Size())
	s, err := openTar(ctx, m.cfg.Tree, meter.Reader(f))
	if err != nil {
		return err
	}
	defer s.Close()
	return u.all(ctx, s)
}

// openTar opens a tar archive, plain or compressed.
func openTar(ctx context.Context, name string, f io.Reader) (*decompress.Stream, error) {
	s, err := decompress.Open(ctx, name, f)
	if err != nil {
		return nil, err
	}
	// What is compressed can be an old or an empty archive, too; reading will tell.
	if head, _ := s.Peek(262); s.Kind == "" && (len(head) < 262 || string(head[257:]) != "ustar") {
		s.Close()
		return nil, &Refused{Device: name, Why: "it is neither a folder nor a tar archive, plain or compressed"}
	}
	return s, nil
}
