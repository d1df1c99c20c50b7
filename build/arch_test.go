package main_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const modulePath = "huck"

// levels is the house: a folder may import folders of its own level and below. A name ending in /... holds for all that
// is under it; a program's folder holds for its own packages, too. Below imager, every new folder gets a line here.
var levels = []struct {
	level   int
	folders []string
}{
	{0, []string{"imager/image", "imager/api", "imager/inspect", "imager/personal", "imager/ptable", "imager/usedmap/...", "imager/cast/protocol", "imager/cast/pace"}},
	{1, []string{"imager/store", "imager/cast", "imager/decompress", "imager/disk", "imager/task"}},
	{2, []string{"imager/archive", "imager/capture", "imager/install", "imager/intake", "imager/origin", "imager/receive", "imager/tree"}},
	{3, []string{"imager", "imager/bench/...", "imager/cast/sim", "bootserver/...", "initramfs/...", "build/...", "qemu-tests/..."}},
}

// programs never import each other's packages.
var programs = []string{"bootserver", "initramfs", "build", "qemu-tests"}

// Level 0 is bytes and values: no operating system, no network, no log, no clock.
var (
	bannedAtZero = []string{"os", "net", "log", "syscall", "golang.org/x/sys"}
	valuesOnly   = []string{"net/netip", "net/url"}
	clock        = []string{"Now", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Since", "Until"}
)

func TestArrowsPointDown(t *testing.T) {
	problems, err := checkArrows(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// levelOf returns the level of a folder, -1 for none. A package only for tests (storetest beside store) may use the
// operating system, so it is at level 1 at least; an internal one belongs to what it is internal to.
func levelOf(folder string) int {
	for _, l := range levels {
		for _, f := range l.folders {
			prefix, all := strings.CutSuffix(f, "/...")
			if folder == prefix || all && strings.HasPrefix(folder, prefix+"/") {
				return l.level
			}
		}
	}
	parent, base := path.Dir(folder), path.Base(folder)
	switch {
	case parent == ".":
		return -1
	case strings.HasSuffix(base, "test"):
		return max(1, levelOf(parent))
	case base == "internal" || path.Base(parent) == "internal":
		return levelOf(parent)
	}
	return -1
}

func programOf(folder string) string {
	top, _, _ := strings.Cut(folder, "/")
	if slices.Contains(programs, top) {
		return top
	}
	return ""
}

// checkArrows reads every Go file of the tree itself: asking the go command instead would let the test cache answer.
func checkArrows(tree fs.FS) ([]string, error) {
	var problems []string
	err := walkGo(tree, func(name string, text []byte) error {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, p := range checkFile(name, file) {
			problems = append(problems, fmt.Sprintf("%s: %s", set.Position(p.pos), p.text))
		}
		return nil
	})
	return problems, err
}

type problem struct {
	pos  token.Pos
	text string
}

func checkFile(name string, file *ast.File) []problem {
	folder := path.Dir(name)
	level := levelOf(folder)
	if level < 0 {
		return []problem{{file.Package, folder + " has no level: give it one in build/arch_test.go"}}
	}
	var problems []problem
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the compiler's business
		}
		if text := checkImport(folder, level, imported); text != "" {
			problems = append(problems, problem{spec.Pos(), text})
		}
		if level == 0 && !strings.HasSuffix(name, "_test.go") && banned(imported) {
			problems = append(problems, problem{spec.Pos(), "level 0 does not import " + imported})
		}
	}
	if level == 0 && !strings.HasSuffix(name, "_test.go") {
		problems = append(problems, clockUses(file)...)
	}
	return problems
}

func checkImport(folder string, level int, imported string) string {
	target, ours := strings.CutPrefix(imported, modulePath+"/")
	if !ours {
		return ""
	}
	to := levelOf(target)
	switch {
	case to < 0:
		return "imports " + target + ", which has no level"
	case to > level:
		return fmt.Sprintf("points up: %s (level %d) imports %s (level %d)", folder, level, target, to)
	case to == 3 && programOf(folder) != programOf(target):
		return fmt.Sprintf("points sideways: %s imports %s of another program", folder, target)
	}
	return ""
}

func banned(imported string) bool {
	if slices.Contains(valuesOnly, imported) {
		return false
	}
	return slices.ContainsFunc(bannedAtZero, func(b string) bool {
		return imported == b || strings.HasPrefix(imported, b+"/")
	})
}

// clockUses finds time.Now and its like, under whatever name the file imports package time.
func clockUses(file *ast.File) []problem {
	name := importName(file, "time")
	var found []problem
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && name != "" && x.Name == name && slices.Contains(clock, sel.Sel.Name) {
			found = append(found, problem{sel.Pos(), "level 0 has no clock: time." + sel.Sel.Name})
		}
		return true
	})
	return found
}

// importName is what a file calls the package at path, "" if it does not import it.
func importName(file *ast.File, importPath string) string {
	for _, spec := range file.Imports {
		if spec.Path.Value != strconv.Quote(importPath) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// walkGo calls visit for every Go file that is part of the tree.
func walkGo(tree fs.FS, visit func(name string, text []byte) error) error {
	return walkTree(tree, func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return visit(name, text)
	})
}

// walkTree calls visit for every file of the tree: not for git's own, nor for results, nor for caches.
func walkTree(tree fs.FS, visit func(name string) error) error {
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !d.IsDir() && d.Type().IsRegular():
			return visit(name)
		case name == ".git" || name == ".cache" || name == "build/out" || d.IsDir() && d.Name() == "node_modules":
			return fs.SkipDir
		}
		return nil
	})
}

func TestCheckArrows(t *testing.T) {
	tests := []struct{ name, file, text, want string }{
		{"down", "imager/store/a.go", `import "huck/imager/image"`, ""},
		{"level", "imager/capture/a.go", `import "huck/imager/origin"`, ""},
		{"up", "imager/image/a.go", `import "huck/imager/store"`, "points up"},
		{"up from a test", "imager/store/a_test.go", `import "huck/imager/install"`, "points up"},
		{"up to a program", "imager/disk/a.go", `import "huck/bootserver/web"`, "points up"},
		{"own package", "bootserver/a.go", `import "huck/bootserver/dhcp"`, ""},
		{"sideways", "initramfs/init/a.go", `import "huck/bootserver/dhcp"`, "points sideways"},
		{"sideways from the CLI", "imager/a.go", `import "huck/build/output"`, "points sideways"},
		{"no level", "imager/helpers/a.go", ``, "has no level"},
		{"no level at the top", "tools/a.go", ``, "has no level"},
		{"imports no level", "imager/store/a.go", `import "huck/imager/helpers"`, "has no level"},
		{"test helper", "imager/cast/casttest/a.go", `import "os"`, ""},
		{"internal", "imager/store/internal/pack/a.go", `import "os"`, ""},
		{"internal at 0", "imager/image/internal/x/a.go", `import "os"`, "does not import os"},
		{"net", "imager/api/a.go", `import "net"`, "does not import net"},
		{"below net", "imager/api/a.go", `import "net/http"`, "does not import net/http"},
		{"a value of net", "imager/api/a.go", `import "net/netip"`, ""},
		{"slog", "imager/usedmap/ext4/a.go", `import "log/slog"`, "does not import log/slog"},
		{"os in a test", "imager/image/a_test.go", `import "os"`, ""},
		{"not os", "imager/image/a.go", `import "oslo"`, ""},
		{"clock", "imager/cast/protocol/a.go", "import \"time\"\nvar t = time.Now()", "time.Now"},
		{"renamed clock", "imager/cast/protocol/a.go", "import tm \"time\"\nvar t = tm.After(1)", "time.After"},
		{"time as a value", "imager/cast/protocol/a.go", "import \"time\"\nvar t time.Time", ""},
		{"clock in a test", "imager/cast/protocol/a_test.go", "import \"time\"\nvar t = time.Now()", ""},
		{"clock above", "imager/cast/a.go", "import \"time\"\nvar t = time.Now()", ""},
		{"results", "build/out/x/a.go", `import "huck/nowhere"`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := fstest.MapFS{tt.file: {Data: []byte("package p\n" + tt.text + "\n")}}
			problems, err := checkArrows(tree)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(problems, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
