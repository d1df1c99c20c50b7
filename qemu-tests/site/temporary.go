package site

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// Temporary builds the programs and makes a site that has all its files in a
// new temporary folder. Remove closes the site and removes the folder; after
// trouble it keeps the folder's logs and says where they are.
func Temporary(ctx context.Context, log *slog.Logger) (s *Site, remove func(failed bool) error, err error) {
	top, err := os.MkdirTemp("", "huck-site-")
	if err != nil {
		return nil, nil, fmt.Errorf("site: %v", err)
	}
	dir := func(name string) string { return filepath.Join(top, name) }
	for _, name := range []string{"programs", "work", "logs"} {
		err = errors.Join(err, os.Mkdir(dir(name), 0o755))
	}
	var p Programs
	if err == nil {
		log.Info("building imager, boot server, kernel and initramfs (a first kernel takes ten minutes)")
		p, err = Build(ctx, dir("programs"))
	}
	if err == nil {
		s, err = New(ctx, p, dir("work"), dir("logs"), log)
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(top))
	}
	return s, func(failed bool) error {
		err := s.Close()
		if !failed {
			return errors.Join(err, os.RemoveAll(top))
		}
		log.Info("kept consoles, packets and logs", "folder", dir("logs"))
		return errors.Join(err, os.RemoveAll(dir("work")), os.RemoveAll(dir("programs")))
	}, nil
}
