package image

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)

// CheckName refuses a name that cannot be an image's: 1 to 64 lower-case
// letters, digits, dots, dashes and underscores, a letter or digit at both ends.
func CheckName(name string) error {
	if !nameRE.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("image: name %.80q: want 1 to 64 of a-z 0-9 . _ - with a letter or digit at both ends", name)
	}
	return nil
}

// Ref names an image: NAME[:VERSION], NAME[:VERSION]@DIGEST or @DIGEST.
type Ref struct {
	Name    string // empty if only a digest is given
	Version uint64 // 0 is the latest
	Digest  ID     // zero if none is given
}

// ParseRef reads a reference.
func ParseRef(s string) (Ref, error) {
	var r Ref
	name, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		id, err := ParseID(digest)
		if err != nil {
			return Ref{}, fmt.Errorf("image: reference %.120q: %v", s, err)
		}
		if id.IsZero() { // it would read as no digest at all
			return Ref{}, fmt.Errorf("image: reference %q: no image has that digest", s)
		}
		r.Digest = id
		if name == "" {
			return r, nil
		}
	}
	name, version, hasVersion := strings.Cut(name, ":")
	if err := CheckName(name); err != nil {
		return Ref{}, err
	}
	r.Name = name
	if hasVersion && version != "latest" {
		v, err := strconv.ParseUint(version, 10, 32)
		if err != nil || v == 0 || version[0] == '+' || version[0] == '0' {
			return Ref{}, fmt.Errorf("image: reference %.120q: version %q is no positive number", s, version)
		}
		r.Version = v
	}
	return r, nil
}

// String is the form ParseRef reads.
func (r Ref) String() string {
	s := r.Name
	if r.Version != 0 {
		s += ":" + strconv.FormatUint(r.Version, 10)
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}

// TagInfo binds NAME:VERSION to an image. It stands in a store under its name
// and version; tags are created, never overwritten.
type TagInfo struct {
	Name    string    `json:"name"`
	Version uint64    `json:"version"`
	Digest  ID        `json:"digest"`
	Parent  string    `json:"parent,omitempty"` // NAME:VERSION@DIGEST, if it is a delta image
	Time    time.Time `json:"time"`
	// Labels are the operator's own words about the image.
	Labels map[string]string `json:"labels,omitempty"`
}

// Ref returns the full reference of the tag.
func (t *TagInfo) Ref() Ref { return Ref{t.Name, t.Version, t.Digest} }

// ParseTag reads a tag's JSON.
func ParseTag(b []byte) (*TagInfo, error) {
	t := new(TagInfo)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("image: tag: %v: %w", err, ErrFormat)
	}
	if err := CheckName(t.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrFormat)
	}
	if t.Version == 0 || t.Digest.IsZero() {
		return nil, fmt.Errorf("image: tag %s: no version or no digest: %w", t.Name, ErrFormat)
	}
	return t, nil
}
