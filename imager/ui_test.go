package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestProgressLines has a job of two steps that tells of itself every second,
// of which every other makes a line.
func TestProgressLines(t *testing.T) {
	tests := []struct {
		name string
		ui   ui
		want string
	}{
		{"plain", ui{}, "import x, unpack: 2.0 KiB of 3.0 KiB (66 %)\nimport x: 1.0 KiB of 2.0 KiB (50 %)\n"},
		{"json", ui{json: true}, `{"event":"progress","job":"import x","step":"unpack","done":2048,"total":3072}
{"event":"progress","job":"import x","done":1024,"total":2048}
`},
		{"quiet", ui{json: true, quiet: true}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said bytes.Buffer
				tt.ui.env.Stderr = &said
				p := tt.ui.progress("import x")
				for n := range int64(3) {
					time.Sleep(time.Second)
					p.Step("unpack")((n+1)<<10, 3<<10)
				}
				for n := range int64(2) {
					time.Sleep(time.Second)
					p.Step("")((n+1)<<10, 2<<10)
				}
				p.Stop()
				if got := said.String(); got != tt.want {
					t.Errorf("it said\n%swant\n%s", got, tt.want)
				}
			})
		})
	}
}

// slowly has a program do more once it is done, as if the disk were large.
func slowly(t *testing.T, program, more string) {
	t.Helper()
	tool(t, program, "-V") // the test needs it
	real, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\" || exit\n%s\n", real, more)
	if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestTreeProgress(t *testing.T) {
	slowly(t, "mkfs.ext4", "sleep 2")
	root, layout := smallTree(t)
	said := want(t, 0, nil, "--json", "import", "--tree", root, "--layout", layout, "--store", filepath.Join(t.TempDir(), "store"), "--name", "made")
	if line := `{"event":"progress","job":"import ` + root + `","step":"fill","done":`; !strings.Contains(said, line) {
		t.Errorf("import said\n%s\nwant %s…", said, line)
	}
}

func TestConversionProgress(t *testing.T) {
	slowly(t, "qemu-img", `[ $1 != convert ] || { sleep 2; printf '    (100.00/100%%)\r'; }`)
	dir, disk := t.TempDir(), ext4Disk(t, 1)
	st, file := filepath.Join(dir, "store"), filepath.Join(dir, "disk")
	want(t, 0, nil, "--quiet", "capture", disk, "--store", st, "--name", "golden")
	said := want(t, 0, nil, "--json", "export", "golden:1", file, "--store", st, "--format", "qcow2")
	if line := `{"event":"progress","job":"export golden:1","step":"convert","done":`; !strings.Contains(said, line) {
		t.Errorf("export said\n%s\nwant %s…", said, line)
	}
	said = want(t, 0, nil, "import", file, "--store", st, "--name", "back")
	if line := "import " + file + ", unpack: "; !strings.Contains(said, line) {
		t.Errorf("import said\n%s\nwant %s…", said, line)
	}
}

// TestProgressBar has one bar for a job of two steps, which begins anew.
func TestProgressBar(t *testing.T) {
	var said bytes.Buffer
	u := ui{env: Env{Stdout: io.Discard, Stderr: &said, Terminal: true}}
	p := u.progress("import x")
	p.Step("unpack")(3<<10, 3<<10)
	p.Step("")(1<<10, 2<<10)
	p.Stop()
	if line := "import x 1.0 KiB / 2.0 KiB"; !strings.Contains(said.String(), line) {
		t.Errorf("the bar ends as %q, want %q", &said, line)
	}
}
