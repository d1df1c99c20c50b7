// Package events is the boot server's diary: what nodes report and what the
// server itself does, appended to a file of JSON lines and handed to whoever
// follows. The file is bounded: when it is full it becomes the older one, and
// the older one before it goes.
package events

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"huck/imager/api"
)

const (
	// DefaultMaxBytes is the size at which the file is rotated. A boot leaves
	// about 6 KiB, so this is a few thousand boots.
	DefaultMaxBytes = 16 << 20
	// backlog is how many events a follower may lie behind before it is cut
	// off: a follower that does not read must cost nothing.
	backlog = 1024
	// maxLine bounds a line when reading back; writers are held to less by
	// the API's limit on a body.
	maxLine = 1 << 20

	fileName = "events.jsonl"
	oldName  = "events.jsonl.1"
)

// ErrSlow is the end of a Follow whose caller did not keep up.
var ErrSlow = errors.New("events: fell too far behind")

// Log is an open diary. Its methods are safe for concurrent use.
type Log struct {
	dir string
	max int64
	log *slog.Logger

	mu        sync.Mutex
	file      *os.File
	size      int64
	followers map[chan api.Event]bool
}

// Open opens the diary in dir, or begins one. max is the size in bytes at which
// the file is rotated, 0 the default. A nil log discards.
func Open(dir string, max int64, log *slog.Logger) (*Log, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if max == 0 {
		max = DefaultMaxBytes
	}
	l := &Log{dir: dir, max: max, log: log, followers: map[chan api.Event]bool{}}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, l.endTornLine()
}

func (l *Log) open() error {
	f, err := os.OpenFile(filepath.Join(l.dir, fileName), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("events: %v", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("events: %v", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// endTornLine ends a line that a crash left unfinished, so that the next one
// begins on its own. Readers skip what is no event.
func (l *Log) endTornLine() error {
	if l.size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := l.file.ReadAt(last[:], l.size-1); err != nil {
		return fmt.Errorf("events: %v", err)
	}
	if last[0] == '\n' {
		return nil
	}
	n, err := l.file.Write([]byte{'\n'})
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("events: %v", err)
	}
	return nil
}

// Add records e, with the present time if it has none, and tells the followers.
// Progress is told but not recorded. A diary that cannot be written is logged
// and stops nothing.
func (l *Log) Add(e api.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Time = e.Time.UTC()
	line, err := json.Marshal(e)
	if err != nil {
		l.log.Error("events: encode", "err", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Type != api.EventProgress {
		if err := l.write(append(line, '\n')); err != nil {
			l.log.Error("events: an event is not recorded", "err", err)
		}
	}
	for ch := range l.followers {
		select {
		case ch <- e:
		default:
			delete(l.followers, ch)
			close(ch)
		}
	}
}

// write appends one line, in one call, so that a killed process leaves whole
// lines.
func (l *Log) write(line []byte) error {
	if l.file == nil { // a failed rotation left none
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.max {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return err
}

func (l *Log) rotate() error {
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	if err == nil {
		err = os.Rename(filepath.Join(l.dir, fileName), filepath.Join(l.dir, oldName))
	}
	return errors.Join(err, l.open())
}

// Close ends the diary; its followers end, too.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ch := range l.followers {
		delete(l.followers, ch)
		close(ch)
	}
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.Sync(), l.file.Close())
	l.file = nil
	if err != nil {
		return fmt.Errorf("events: close: %v", err)
	}
	return nil
}

// Read hands all recorded events to each, oldest first, and, if follow is set,
// then those that come, without a gap, until ctx ends or each returns an error,
// which Read returns. It calls begun first, when nothing that comes can be
// missed any more.
func (l *Log) Read(ctx context.Context, follow bool, begun func(), each func(api.Event) error) error {
	files, news, err := l.begin(follow)
	if err != nil {
		return err
	}
	defer l.leave(news)
	begun()
	for _, f := range files {
		defer f.Close()
	}
	for _, f := range files {
		if err := scan(ctx, f, each); err != nil {
			return err
		}
	}
	for follow {
		select {
		case e, ok := <-news:
			if !ok {
				return ErrSlow
			}
			if err := each(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// section is the part of a file that was there when a reader began.
type section struct {
	*io.SectionReader
	io.Closer
}

// begin opens the files and joins the followers in one step.
func (l *Log) begin(follow bool) (files []section, news chan api.Event, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range []string{oldName, fileName} {
		f, err := os.Open(filepath.Join(l.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("events: %v", err)
		}
		info, err := f.Stat()
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("events: %v", err), f.Close())
		}
		files = append(files, section{io.NewSectionReader(f, 0, info.Size()), f})
	}
	if follow {
		news = make(chan api.Event, backlog)
		l.followers[news] = true
	}
	return files, news, nil
}

func (l *Log) leave(news chan api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, news)
}

func scan(ctx context.Context, r io.Reader, each func(api.Event) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for sc.Scan() {
		if ctx.Err() != nil {
			return nil
		}
		var e api.Event
		if len(bytes.TrimSpace(sc.Bytes())) == 0 || json.Unmarshal(sc.Bytes(), &e) != nil {
			continue // torn by a crash
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("events: read: %v", err)
	}
	return nil
}
