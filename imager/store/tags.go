package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"huck/imager/image"
)

const tagSuffix = ".json"

// errRemoved tells that a tag was removed. Its file stays, so that its version
// is never given again.
var errRemoved = errors.New("removed")

// tombstone is what a removed tag's file holds.
type tombstone struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"`
	Removed time.Time `json:"removed"`
}

func tagName(name string, version uint64) string {
	return filepath.Join(tagDir, name, strconv.FormatUint(version, 10)+tagSuffix)
}

// CreateTag implements WriteStore.
func (d *Dir) CreateTag(ctx context.Context, name string, digest image.ID, parent string, labels map[string]string) (image.TagInfo, error) {
	if err := image.CheckName(name); err != nil {
		return image.TagInfo{}, err
	}
	if parent != "" {
		if _, err := image.ParseRef(parent); err != nil {
			return image.TagInfo{}, fmt.Errorf("store: parent: %w", err)
		}
	}
	l, err := d.shared(ctx)
	if err != nil {
		return image.TagInfo{}, err
	}
	defer l.release()
	if _, err := d.Manifest(ctx, digest); err != nil {
		return image.TagInfo{}, err
	}
	if err := d.makeTagFolder(name); err != nil {
		return image.TagInfo{}, err
	}
	tag := image.TagInfo{Name: name, Digest: digest, Parent: parent, Time: time.Now().UTC().Truncate(time.Second), Labels: labels}
	for {
		if err := ctx.Err(); err != nil {
			return image.TagInfo{}, fmt.Errorf("store: %w", err)
		}
		if tag.Version, err = d.nextVersion(name); err != nil {
			return image.TagInfo{}, err
		}
		b, err := json.Marshal(tag)
		if err != nil {
			return image.TagInfo{}, fmt.Errorf("store: tag %s: %v", name, err)
		}
		err = d.writeFile(append(b, '\n'), tagName(name, tag.Version), os.Link)
		if err == nil {
			return tag, nil
		}
		if !errors.Is(err, fs.ErrExist) { // else another writer was faster
			return image.TagInfo{}, err
		}
	}
}

func (d *Dir) makeTagFolder(name string) error {
	err := os.Mkdir(d.dir(filepath.Join(tagDir, name)), 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("store: %v", err)
	}
	// Also if another writer made it: its name must be durable before ours in it.
	return syncDir(d.dir(tagDir))
}

// nextVersion returns the version after the highest that name ever had.
func (d *Dir) nextVersion(name string) (uint64, error) {
	all, err := d.versions(name)
	if err != nil || len(all) == 0 {
		return 1, err
	}
	return all[0] + 1, nil
}

// versions returns the versions of name, removed ones too, latest first.
func (d *Dir) versions(name string) ([]uint64, error) {
	files, err := os.ReadDir(d.dir(filepath.Join(tagDir, name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: list tags: %v", err)
	}
	var all []uint64
	for _, f := range files {
		if v, ok := versionOf(f.Name()); ok {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b uint64) int { return cmp.Compare(b, a) })
	return all, nil
}

// versionOf reads a tag's file name.
func versionOf(file string) (uint64, bool) {
	if filepath.Ext(file) != tagSuffix {
		return 0, false
	}
	v, err := strconv.ParseUint(file[:len(file)-len(tagSuffix)], 10, 32)
	return v, err == nil && v > 0 && strconv.FormatUint(v, 10)+tagSuffix == file
}

// readTag reads one tag. The error wraps ErrNotFound if there is no such
// version and errRemoved too if there was.
func (d *Dir) readTag(ctx context.Context, name string, version uint64) (image.TagInfo, error) {
	file := tagName(name, version)
	b, err := d.readFile(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return image.TagInfo{}, fmt.Errorf("store: image %s:%d: %w", name, version, ErrNotFound)
	}
	if err != nil {
		return image.TagInfo{}, err
	}
	var t tombstone
	if json.Unmarshal(b, &t) == nil && !t.Removed.IsZero() && t.Name == name && t.Version == version {
		return image.TagInfo{}, fmt.Errorf("store: image %s:%d: %w: %w", name, version, errRemoved, ErrNotFound)
	}
	tag, err := image.ParseTag(b)
	if err != nil {
		return image.TagInfo{}, fmt.Errorf("store: %s: %w", file, err)
	}
	if tag.Name != name || tag.Version != version {
		return image.TagInfo{}, fmt.Errorf("store: %s holds the tag %s:%d: %w", file, tag.Name, tag.Version, image.ErrFormat)
	}
	return *tag, nil
}

// Resolve implements Store.
func (d *Dir) Resolve(ctx context.Context, ref image.Ref) (image.TagInfo, error) {
	if ref.Name == "" {
		_, err := d.Manifest(ctx, ref.Digest)
		return image.TagInfo{Digest: ref.Digest}, err
	}
	if err := image.CheckName(ref.Name); err != nil {
		return image.TagInfo{}, err
	}
	all := []uint64{ref.Version}
	if ref.Version == 0 {
		var err error
		if all, err = d.versions(ref.Name); err != nil {
			return image.TagInfo{}, err
		}
	}
	for _, v := range all {
		tag, err := d.readTag(ctx, ref.Name, v)
		switch {
		case err == nil && (ref.Digest.IsZero() || tag.Digest == ref.Digest):
			return tag, nil
		case err == nil && ref.Version != 0:
			return image.TagInfo{}, fmt.Errorf("store: image %s: %s:%d is @%s: %w", ref, tag.Name, tag.Version, tag.Digest, ErrNotFound)
		case err != nil && (ref.Version != 0 || !errors.Is(err, errRemoved)):
			return image.TagInfo{}, err // not an older one behind the back of a damaged one
		}
	}
	return image.TagInfo{}, fmt.Errorf("store: image %s: %w", ref, ErrNotFound)
}

// Tags implements Store.
func (d *Dir) Tags(ctx context.Context) ([]image.TagInfo, error) {
	var tags []image.TagInfo
	var bad []error
	err := d.eachTag(ctx, func(_ string, tag image.TagInfo, err error) {
		if err == nil {
			tags = append(tags, tag)
		} else {
			bad = append(bad, err)
		}
	})
	return tags, errors.Join(append(bad, err)...)
}

// eachTag calls f for every tag that is not removed, by name and version, with
// its file and why it cannot be read, if so.
func (d *Dir) eachTag(ctx context.Context, f func(file string, tag image.TagInfo, err error)) error {
	names, err := os.ReadDir(d.dir(tagDir))
	if err != nil {
		return fmt.Errorf("store: list tags: %v", err)
	}
	for _, n := range names {
		if !n.IsDir() || image.CheckName(n.Name()) != nil {
			continue
		}
		all, err := d.versions(n.Name())
		if err != nil {
			return err
		}
		slices.Reverse(all)
		for _, v := range all {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("store: %w", err)
			}
			tag, err := d.readTag(ctx, n.Name(), v)
			if !errors.Is(err, ErrNotFound) {
				f(tagName(n.Name(), v), tag, err)
			}
		}
	}
	return nil
}

// RemoveTag implements WriteStore.
func (d *Dir) RemoveTag(ctx context.Context, name string, version uint64) error {
	if err := image.CheckName(name); err != nil {
		return err
	}
	l, err := d.shared(ctx)
	if err != nil {
		return err
	}
	defer l.release()
	if _, err := d.readTag(ctx, name, version); errors.Is(err, ErrNotFound) {
		return err // a damaged tag can be removed
	}
	b, err := json.Marshal(tombstone{name, version, time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("store: remove %s:%d: %v", name, version, err)
	}
	return d.writeFile(append(b, '\n'), tagName(name, version), os.Rename)
}
