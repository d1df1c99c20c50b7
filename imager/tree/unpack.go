package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unpacking is a tree that is being unpacked into a folder, from one archive
// or several, one over the other.
type unpacking struct {
	root   *os.Root // nothing leaves it, whatever names and links say
	work   string
	inodes map[string]inode // by path below the root, which is ""
	values int              // extended attributes so far

	// layered makes names such as .wh.x mean that there is no x any more
	// (OCI Image Layer Specification, Whiteouts). fresh are the paths that the
	// present layer has, and the folders they are in.
	layered bool
	fresh   map[string]bool
}

// inode is what is set in the finished filesystem.
type inode struct {
	mode     int64
	uid, gid int
	node     string      // what mknod of debugfs is to make; else the file is there
	attrs    [][2]string // extended attributes, each with the file of its value
	modified time.Time   // of a folder
}

// Types of a file in its mode (inode(7)), and their mask.
const (
	modeType  = 0o170000
	modeDir   = 0o040000
	modeFile  = 0o100000
	modeLink  = 0o120000
	modeFIFO  = 0o010000
	modeChar  = 0o020000
	modeBlock = 0o060000
)

const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// all unpacks every entry of the archive r and reads r to its end.
func (u *unpacking) all(ctx context.Context, r io.Reader) error {
	u.fresh = make(map[string]bool)
	end := &endReader{r: r}
	archive := tar.NewReader(end)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("tar: %s: %w", h.Name, err)
		}
	}
	if end.met {
		return errors.New("tar: it is cut short: the two empty blocks at its end are not there")
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // to its checksum, if it has one
		return fmt.Errorf("tar: %w", err)
	}
	return nil
}

// endReader notices that its reader ended. To package tar the end of the file
// is as good as that of the archive.
type endReader struct {
	r   io.Reader
	met bool
}

// Read implements io.Reader.
func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		e.met = true
	}
	return n, err
}

// clean makes a name of an archive a path below the root.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (u *unpacking) entry(h *tar.Header, r io.Reader) error {
	name := clean(h.Name)
	// debugfs knows no way to write these.
	if strings.ContainsFunc(name, unprintable) || strings.Contains(name, `"`) {
		return errors.New("its name has a quotation mark or control character")
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name != "" {
		dir, err := u.parent(path.Dir(name))
		if err != nil {
			return err
		}
		name = path.Join(dir, path.Base(name))
		if u.layered && strings.HasPrefix(path.Base(name), whiteout) {
			return u.whiteout(dir, path.Base(name))
		}
	}
	for p := name; p != "." && p != "" && !u.fresh[p]; p = path.Dir(p) {
		u.fresh[p] = true
	}
	in, err := u.create(name, h, r)
	if err != nil || in.mode == 0 {
		return err
	}
	in.mode |= h.Mode & 0o7777
	in.uid, in.gid = h.Uid, h.Gid
	if in.attrs, err = u.attributes(h); err != nil {
		return err
	}
	u.inodes[name] = in
	return nil
}

// parent makes the folder dir unless it is there, and returns its path without
// links, so that a file has one path only.
func (u *unpacking) parent(dir string) (string, error) {
	if err := u.root.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(u.root.Name(), dir))
	if err != nil {
		return "", err
	}
	if real, err = filepath.Rel(u.root.Name(), real); err != nil {
		return "", err
	}
	for p := clean(real); p != "." && p != ""; p = path.Dir(p) {
		if _, ok := u.inodes[p]; !ok { // the archive has no entry of its own for it
			u.inodes[p] = inode{mode: modeDir | 0o755}
		}
	}
	return clean(real), nil
}

// whiteout removes what a layer says is not there any more.
func (u *unpacking) whiteout(dir, base string) error {
	if base == opaqueWhiteout {
		return u.hide(dir)
	}
	return u.remove(path.Join(dir, strings.TrimPrefix(base, whiteout)))
}

// remove removes a file or folder of an earlier entry, if there is one.
func (u *unpacking) remove(name string) error {
	if name == "" {
		return errors.New("the root cannot be replaced")
	}
	if u.inodes[name].mode&modeType == modeDir {
		maps.DeleteFunc(u.inodes, func(p string, _ inode) bool { return strings.HasPrefix(p, name+"/") })
	}
	delete(u.inodes, name)
	return u.root.RemoveAll(name)
}

// hide removes what earlier layers have in a folder.
func (u *unpacking) hide(dir string) error {
	names := make(map[string]bool)
	files, err := fs.ReadDir(u.root.FS(), path.Join(".", dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		names[f.Name()] = true
	}
	for p := range u.inodes { // nodes are here only
		if p != "" && clean(path.Dir(p)) == dir {
			names[path.Base(p)] = true
		}
	}
	for n := range names {
		if p := path.Join(dir, n); !u.fresh[p] {
			if err := u.remove(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// create makes an entry in place of whatever was there. The inode's mode is 0
// if there is nothing to set.
func (u *unpacking) create(name string, h *tar.Header, r io.Reader) (inode, error) {
	if h.Typeflag == tar.TypeDir {
		return u.folder(name, h)
	}
	if err := u.remove(name); err != nil {
		return inode{}, err
	}
	device := fmt.Sprintf(" %d %d", h.Devmajor, h.Devminor)
	const most = 65535 // what mknod of debugfs takes
	if min(h.Devmajor, h.Devminor) < 0 || max(h.Devmajor, h.Devminor) > most {
		return inode{}, fmt.Errorf("device%s: numbers from 0 to %d can be made", device, most)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return inode{mode: modeFile}, u.file(name, h, r)
	case tar.TypeSymlink:
		return inode{mode: modeLink}, u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return inode{}, u.link(name, clean(h.Linkname))
	case tar.TypeChar:
		return inode{mode: modeChar, node: "c" + device}, nil
	case tar.TypeBlock:
		return inode{mode: modeBlock, node: "b" + device}, nil
	case tar.TypeFifo:
		return inode{mode: modeFIFO, node: "p"}, nil
	}
	return inode{}, fmt.Errorf("entry type %q is not known", h.Typeflag)
}

// link gives what an earlier entry made one more name. What is to be set in the
// inode is kept for each of them: a later layer may take away any.
func (u *unpacking) link(name, to string) error {
	dir, err := u.parent(path.Dir(to))
	if err != nil {
		return err
	}
	in, ok := u.inodes[path.Join(dir, path.Base(to))]
	if !ok || in.node == "" { // nodes are made last, and two of one are as good as one
		if err := u.root.Link(to, name); err != nil {
			return err
		}
	}
	if ok {
		u.inodes[name] = in
	}
	return nil
}

func (u *unpacking) folder(name string, h *tar.Header) (inode, error) {
	in := inode{mode: modeDir, modified: h.ModTime}
	if name == "" {
		return in, nil
	}
	st, err := u.root.Lstat(name)
	switch {
	case err == nil && st.IsDir():
		return in, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return in, err
	}
	if err := u.remove(name); err != nil {
		return in, err
	}
	return in, u.root.Mkdir(name, 0o700)
}

func (u *unpacking) file(name string, h *tar.Header, r io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// attributes keeps the extended attributes that GNU tar and bsdtar record.
func (u *unpacking) attributes(h *tar.Header) ([][2]string, error) {
	var attrs [][2]string
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if strings.ContainsFunc(attr, unprintable) || strings.ContainsAny(attr, "\" ") {
			return nil, fmt.Errorf("extended attribute %q has an odd name", attr)
		}
		file := filepath.Join(u.work, "attr"+strconv.Itoa(u.values))
		u.values++
		if err := os.WriteFile(file, []byte(h.PAXRecords[key]), 0o600); err != nil {
			return nil, err
		}
		attrs = append(attrs, [2]string{attr, file})
	}
	return attrs, nil
}

// finish sets the times of folders, which unpacking into them changed, and
// writes down the rest, parents before what is in them.
func (u *unpacking) finish(s *source) error {
	for _, name := range slices.Sorted(maps.Keys(u.inodes)) {
		in := u.inodes[name]
		if !in.modified.IsZero() && name != "" {
			if err := u.root.Chtimes(name, in.modified, in.modified); err != nil {
				return err
			}
		}
		if in.node != "" {
			s.later("cd "+quote("/"+clean(path.Dir(name))), "mknod "+quote(path.Base(name))+" "+in.node, "cd /")
		}
		const field = "set_inode_field"
		s.set(name, field, fmt.Sprintf(" mode 0%o", in.mode))
		s.set(name, field, fmt.Sprintf(" uid %d", in.uid))
		s.set(name, field, fmt.Sprintf(" gid %d", in.gid))
		for _, a := range in.attrs {
			s.set(name, "ea_set -f "+quote(a[1]), " "+a[0])
		}
	}
	return nil
}
