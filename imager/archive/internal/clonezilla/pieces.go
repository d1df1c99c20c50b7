package clonezilla

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"huck/imager/decompress"
	"huck/imager/disk"
	"huck/imager/image"
)

// Refused tells why something is not imported.
type Refused = disk.Refused

// splitName matches a piece of split(1), which names them .aa, .ab and so on.
var splitName = regexp.MustCompile(`^(.+\.)([a-z]{2,4})$`)

// firstPiece matches the ending of the first piece's name.
var firstPiece = regexp.MustCompile(`\.a{2,4}$`)

// content is what is in a file or, if its name is that of a first piece, in all
// pieces behind each other, decompressed.
type content struct {
	*decompress.Stream
	pieces *pieces
}

func openContent(ctx context.Context, file string, m *decompress.Meter) (*content, error) {
	files, err := findPieces(file)
	if err != nil {
		return nil, err
	}
	p := &pieces{files: files}
	s, err := decompress.Open(ctx, filepath.Base(file), m.Reader(p))
	if err != nil {
		p.close()
		return nil, err
	}
	return &content{s, p}, nil
}

// Close ends the stream and closes the file under it, in that order.
func (c *content) Close() {
	c.Stream.Close()
	c.pieces.close()
}

// isPartclone reports whether it is an image of partclone.
func (c *content) isPartclone() bool {
	head, _ := c.Peek(len(partcloneMagic)) // reading will tell what is wrong
	return string(head) == partcloneMagic
}

// expect has the meter expect all pieces of a file.
func expect(m *decompress.Meter, file string) error {
	files, err := findPieces(file)
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return err
		}
		m.Expect(st.Size())
	}
	return err
}

// findPieces lists the pieces of a file if it is the first of some, or just
// that file. One that is missing between others is an error; whether the last is
// there, the content tells.
func findPieces(first string) ([]string, error) {
	if !firstPiece.MatchString(first) {
		return []string{first}, nil
	}
	m := splitName.FindStringSubmatch(filepath.Base(first))
	entries, err := os.ReadDir(filepath.Dir(first)) // sorted
	if m == nil || err != nil {
		return []string{first}, err
	}
	var files []string
	next := []byte(m[2])
	for _, e := range entries {
		n := splitName.FindStringSubmatch(e.Name())
		if n == nil || n[1] != m[1] || len(n[2]) != len(m[2]) {
			continue
		}
		if n[2] != string(next) {
			return nil, fmt.Errorf("%s%s is not there, and %s is: %w", m[1], next, e.Name(), image.ErrFormat)
		}
		files = append(files, filepath.Join(filepath.Dir(first), e.Name()))
		for i := range slices.Backward(next) {
			if next[i]++; next[i] <= 'z' {
				break
			}
			next[i] = 'a'
		}
	}
	return files, nil
}

// pieces reads files one behind the other, and opens them when it gets there.
type pieces struct {
	files []string
	open  *os.File
}

// Read implements io.Reader.
func (p *pieces) Read(b []byte) (int, error) {
	for {
		if p.open == nil {
			if len(p.files) == 0 {
				return 0, io.EOF
			}
			f, err := os.Open(p.files[0])
			if err != nil {
				return 0, err
			}
			p.open, p.files = f, p.files[1:]
		}
		n, err := p.open.Read(b)
		if err != io.EOF || n > 0 {
			return n, err
		}
		p.close()
	}
}

func (p *pieces) close() {
	if p.open != nil {
		_ = p.open.Close() // opened for reading
		p.open = nil
	}
}

// IsImage reports whether a file is an image of partclone, compressed or not,
// or its first piece. It is an error if another piece is missing.
func IsImage(ctx context.Context, file string) (bool, error) {
	if _, err := findPieces(file); err != nil {
		return false, err
	}
	c, err := openContent(ctx, file, nil)
	if err != nil {
		return false, nil // whoever reads it otherwise will tell
	}
	defer c.Close()
	return c.isPartclone(), nil
}

// Image makes a raw disk of an image of partclone: the filesystem without a
// partition table. tell, which may be nil, is called with the bytes of file read
// and to be read. Errors of the image wrap image.ErrFormat.
func Image(ctx context.Context, file, raw string, tell func(done, total int64)) error {
	m := decompress.NewMeter(tell)
	if err := expect(m, file); err != nil {
		return err
	}
	return create(raw, func(f *os.File) error {
		size, err := restoreAt(ctx, file, target{f, 0, 0}, m)
		if err != nil {
			return err
		}
		return f.Truncate(size)
	})
}

// create makes a sparse file by fill.
func create(raw string, fill func(*os.File) error) error {
	f, err := os.OpenFile(raw, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := fill(f); err != nil {
		_ = f.Close() // it is of no use
		return err
	}
	return f.Close()
}

// target is where in a file a filesystem belongs. A size of 0 is any.
type target struct {
	file        *os.File
	start, size int64
}

// restoreAt restores an image of partclone or, for a partition, one of dd. It
// returns the filesystem's size.
func restoreAt(ctx context.Context, file string, t target, m *decompress.Meter) (int64, error) {
	c, err := openContent(ctx, file, m)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if !c.isPartclone() {
		return t.size, wrap(file, copySparse(ctx, c, io.NewOffsetWriter(t.file, t.start), room{t.size, t.size}))
	}
	p, err := openPartclone(c)
	if err != nil {
		return 0, wrap(file, err)
	}
	if t.size > 0 && p.size > t.size {
		return 0, wrap(file, fmt.Errorf("a filesystem of %d bytes for a partition of %d: %w", p.size, t.size, image.ErrFormat))
	}
	return p.size, wrap(file, p.restore(ctx, io.NewOffsetWriter(t.file, t.start)))
}

func wrap(file string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return nil
}

// room is how many bytes something may have.
type room struct{ least, most int64 }

// copySparse copies all there is, but no zeros.
func copySparse(ctx context.Context, from io.Reader, to io.WriterAt, r room) error {
	w := &runWriter{to: to, buf: make([]byte, 0, runBytes)}
	b := make([]byte, disk.Align)
	for at := int64(0); ; {
		n, err := io.ReadFull(from, b)
		at += int64(n)
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		switch {
		case err != nil && !last:
			return fmt.Errorf("byte %d (uncompressed): %w", at, err)
		case at > r.most:
			return fmt.Errorf("it has more than the %d bytes there is room for: %w", r.most, image.ErrFormat)
		case last && at < r.least:
			return fmt.Errorf("it is cut short: %d bytes of %d: %w", at, r.least, image.ErrFormat)
		}
		if err := w.write(ctx, at-int64(n), b[:n]); err != nil {
			return err
		}
		if last {
			return w.flush(ctx)
		}
	}
}
