// Package netboot fills the folder that a boot server serves over TFTP and HTTP.
//
// The folder is flat. boot.json names every other file with its size and SHA-256 and is written last, so that a reader
// who finds all of it true has one whole build:
//
//	{"version": 1, "files": {"vmlinuz": {"size": 10048512, "sha256": "9f…"}, …}}
package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"huck/build/output"
)

// Index is the name of the file that describes the others.
const Index = "boot.json"

// File is one to be served: the name it is served under, where it comes from, and what to do where that is missing.
type File struct {
	Name, Source, Missing string
}

// IPXE lists the boot loaders in Debian's ipxe package, or in a folder laid out like its own: for BIOS over the ROM's own
// network stack, for UEFI over the firmware's, and for UEFI with drivers of its own.
func IPXE(dir string) []File {
	const missing = "`build/bootstrap.sh netboot` installs iPXE, --ipxe names another folder, --no-ipxe does without"
	var files []File
	for _, name := range []string{"undionly.kpxe", "snponly.efi", "ipxe.efi"} {
		files = append(files, File{Name: name, Source: filepath.Join(dir, name), Missing: missing})
	}
	return files
}

type boot struct {
	Version int              `json:"version"`
	Files   map[string]entry `json:"files"`
}

type entry struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Write brings dir's files and boot.json up to date. What else lies there is neither touched nor listed.
func Write(dir string, files []File, log func(format string, args ...any)) error {
	index := boot{Version: 1, Files: map[string]entry{}}
	for _, f := range files {
		e, err := add(dir, f)
		if err != nil {
			return err
		}
		index.Files[f.Name] = e
		log("%-20s %9d bytes", f.Name, e.Size)
	}
	err := output.Write(filepath.Join(dir, Index), func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(index)
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", Index, err)
	}
	return nil
}

func add(dir string, f File) (entry, error) {
	path := filepath.Join(dir, f.Name)
	err := output.Copy(path, f.Source)
	if errors.Is(err, os.ErrNotExist) && f.Missing != "" {
		return entry{}, fmt.Errorf("%w: %s", err, f.Missing)
	}
	if err != nil {
		return entry{}, err
	}
	return describe(path)
}

func describe(path string) (entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return entry{}, fmt.Errorf("read %s: %w", path, err)
	}
	return entry{Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
