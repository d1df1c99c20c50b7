package clonezilla

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"huck/imager/decompress"
	"huck/imager/image"
)

const (
	// textBytes bounds a small file of a folder.
	textBytes = 1 << 20
	pageBytes = 4096 // what a swap area's header takes
)

// device matches the name of a disk or partition, which becomes a file's.
var device = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!._-]*$`)

// folder is what Clonezilla saved of a disk.
type folder struct {
	path  string
	disk  string
	names []string // of all files
	parts []string // those whose content was saved
	dump  dump
	log   *slog.Logger
	meter *decompress.Meter // of the images of partitions
}

// IsFolder reports whether Clonezilla made a folder.
func IsFolder(path string) bool {
	for _, name := range []string{"parts", "clonezilla-img"} {
		if st, err := os.Stat(filepath.Join(path, name)); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// Folder makes the raw disk that Clonezilla saved in a folder. tell is as for
// Image. The error is a *Refused for what is not known; broken files wrap
// image.ErrFormat.
func Folder(ctx context.Context, path, raw string, log *slog.Logger, tell func(done, total int64)) error {
	d := &folder{path: path, log: log, meter: decompress.NewMeter(tell)}
	if err := d.open(); err != nil {
		return err
	}
	if !d.has(d.disk + "-pt.sf") { // a filesystem without a table
		file, err := d.file(d.disk)
		switch {
		case err != nil:
			return err
		case file == "":
			return d.refuse("it has neither %s-pt.sf nor an image of %s", d.disk, d.disk)
		}
		return Image(ctx, file, raw, tell)
	}
	text, err := d.read("-pt.sf", textBytes)
	if err != nil {
		return err
	}
	if d.dump, err = parseDump(string(text), d.disk); err != nil {
		return fmt.Errorf("%s-pt.sf: %w", d.disk, err)
	}
	files, err := d.files()
	if err != nil {
		return err
	}
	return create(raw, func(f *os.File) error {
		if err := d.table(ctx, f); err != nil {
			return err
		}
		return d.fill(ctx, f, files)
	})
}

// open reads what the folder is about, and refuses what cannot be imported.
func (d *folder) open() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		d.names = append(d.names, e.Name())
	}
	for _, r := range []struct{ name, why string }{
		{"ecryptfs.info", "it is encrypted: decrypt it with Clonezilla first (ocs-decrypt-img)"},
		{"gocryptfs.info", "it is encrypted: decrypt it with Clonezilla first (ocs-decrypt-img)"},
		{"lvm_vg_dev.list", "it has LVM volumes, saved one by one: restore it to a disk with Clonezilla and capture that"},
		{"luks-dev.list", "it has opened LUKS volumes: restore it to a disk with Clonezilla and capture that"},
	} {
		if d.has(r.name) {
			return d.refuse("%s", r.why)
		}
	}
	if !d.has("disk") {
		return d.refuse("it has partitions and no whole disk: import the image of one partition, by the name of its file")
	}
	disks, err := d.list("disk")
	if err != nil {
		return err
	}
	switch {
	case len(disks) == 0:
		return d.refuse("its file disk names none")
	case len(disks) > 1:
		return d.refuse("it has the disks %s: leave only the name of one of them in its file disk", strings.Join(disks, ", "))
	}
	d.disk = disks[0]
	if d.has("parts") {
		d.parts, err = d.list("parts")
	}
	return err
}

// list reads a file of names.
func (d *folder) list(name string) ([]string, error) {
	b, err := d.readFile(name, textBytes)
	if err != nil {
		return nil, err
	}
	var list []string
	for n := range strings.FieldsSeq(string(b)) {
		if n = fileName(n); !device.MatchString(n) {
			return nil, d.bad("%s has the name %.100q", name, n)
		}
		list = append(list, n)
	}
	return list, nil
}

func (d *folder) has(name string) bool { return slices.Contains(d.names, name) }

func (d *folder) refuse(format string, args ...any) error {
	return &Refused{Device: d.path, Why: fmt.Sprintf(format, args...)}
}

func (d *folder) bad(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), image.ErrFormat)
}

// read reads a file of the disk, whose name goes on with suffix, of limit bytes
// at most.
func (d *folder) read(suffix string, limit int64) ([]byte, error) {
	return d.readFile(d.disk+suffix, limit)
}

// optional is read for a file that need not be there.
func (d *folder) optional(suffix string, limit int64) ([]byte, error) {
	return d.optionalFile(d.disk+suffix, limit)
}

func (d *folder) optionalFile(name string, limit int64) ([]byte, error) {
	b, err := d.readFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

func (d *folder) readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(d.path, name))
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = d.bad("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// imageName matches the image of a partition, or its first piece: partclone's
// or dd's.
var imageName = regexp.MustCompile(`^(?:[A-Za-z0-9_+]+-ptcl-img(?:\.(?:gz|bz2|lzo|lzma|xz|lzip|lrz|lz4|zst|uncomp))?|dd-img)(?:\.a{2,4})?$`)

// otherName matches an image by another program.
var otherName = regexp.MustCompile(`^(?:ntfs-img.*|0+)$`)

// file finds the image of a partition; there may be none.
func (d *folder) file(part string) (string, error) {
	var found []string
	for _, name := range d.names {
		rest, ok := strings.CutPrefix(name, part+".")
		switch {
		case !ok:
		case imageName.MatchString(rest):
			found = append(found, name)
		case otherName.MatchString(rest):
			return "", d.refuse("%s was saved by ntfsclone or partimage: restore it to a disk with Clonezilla and capture that", name)
		}
	}
	switch len(found) {
	case 0:
		return "", nil
	case 1:
		return filepath.Join(d.path, found[0]), nil
	}
	return "", d.refuse("it has more than one image of %s: %s", part, strings.Join(found, ", "))
}

// files finds the images of all partitions, so that what lacks and how much
// there is to read are known before anything is written.
func (d *folder) files() (map[string]string, error) {
	files := map[string]string{}
	for _, p := range d.dump.parts {
		if d.dump.extended(p) {
			continue
		}
		file, err := d.file(p.name)
		if err != nil {
			return nil, err
		}
		if file == "" && slices.Contains(d.parts, p.name) && !d.has(swapFile(p.name)) {
			return nil, d.refuse("it has no image of %s, which its file parts names", p.name)
		}
		if file != "" {
			if err := expect(d.meter, file); err != nil {
				return nil, err
			}
		}
		files[p.name] = file
	}
	return files, nil
}

// fill writes what is in the partitions.
func (d *folder) fill(ctx context.Context, f *os.File, files map[string]string) error {
	for _, p := range d.dump.parts {
		switch file := files[p.name]; {
		case d.dump.extended(p):
		case file != "":
			if _, err := restoreAt(ctx, file, target{f, p.start, p.size}, d.meter); err != nil {
				return err
			}
		case d.has(swapFile(p.name)):
			if err := d.swap(f, p); err != nil {
				return err
			}
		default:
			d.log.Warn("the folder has no content of a partition, it stays empty", "partition", p.number)
		}
	}
	return nil
}

func swapFile(part string) string { return "swappt-" + part + ".info" }

var swapInfo = regexp.MustCompile(`(?m)^(UUID|LABEL)="?([^"\n]*)"?$`)

// swap makes an empty swap area, of pages of 4096 bytes (Linux, union
// swap_header in include/linux/swap.h).
func (d *folder) swap(f *os.File, p dumpPart) error {
	text, err := d.readFile(swapFile(p.name), textBytes)
	if err != nil {
		return err
	}
	if p.size < 10*pageBytes { // as mkswap(8)
		return d.bad("%s is too small for swap: %d bytes", p.name, p.size)
	}
	h := make([]byte, pageBytes)
	binary.LittleEndian.PutUint32(h[1024:], 1)
	binary.LittleEndian.PutUint32(h[1028:], uint32(min(p.size/pageBytes-1, 1<<32-1)))
	for _, m := range swapInfo.FindAllStringSubmatch(string(text), -1) {
		switch {
		case m[1] == "LABEL":
			copy(h[1052:1068], m[2])
		case m[2] != "":
			id, err := uuid.Parse(m[2])
			if err != nil {
				return d.bad("%s: %v", swapFile(p.name), err)
			}
			copy(h[1036:1052], id[:])
		}
	}
	copy(h[pageBytes-10:], "SWAPSPACE2")
	_, err = f.WriteAt(h, p.start)
	return err
}
