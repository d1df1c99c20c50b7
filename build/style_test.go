package main_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

func TestGofmt(t *testing.T) {
	err := walkGo(os.DirFS(".."), func(name string, text []byte) error {
		want, err := format.Source(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return nil
		}
		if !bytes.Equal(text, want) {
			t.Errorf("%s is not gofmt's: run gofmt -w on it", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestVet(t *testing.T) {
	runOnTree(t, "go", "vet", "./...")
}

// Staticcheck's version is pinned by a tool line in go.mod.
func TestStaticcheck(t *testing.T) {
	needTool(t, "go", "tool", "-n", "staticcheck")
	runOnTree(t, "go", "tool", "staticcheck", "./...")
}

func TestShellcheck(t *testing.T) {
	needTool(t, "shellcheck", "--version")
	var scripts []string
	err := walkTree(os.DirFS(".."), func(name string) error {
		if path.Ext(name) == ".sh" {
			scripts = append(scripts, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	runOnTree(t, "shellcheck", scripts...)
}

// needTool skips the test where a tool does not run, and fails it where all tools are promised to be there.
func needTool(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	switch {
	case err == nil:
	case os.Getenv("REQUIRE_TOOLS") == "1":
		t.Fatalf("%s: %v\n%s", name, err, out)
	default:
		t.Skipf("%s: %v (REQUIRE_TOOLS=1 makes this a failure)\n%s", name, err, out)
	}
}

func runOnTree(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func TestReadmeIsShort(t *testing.T) {
	const limit = 150
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > limit {
		t.Errorf("README.md has %d lines, at most %d: the rest belongs into the documents it links to", n, limit)
	}
}

// A path of the machine that a file was written on means nothing on any other.
func TestNoMachinePaths(t *testing.T) {
	// Not the checkout's own: people clone to places that documents may name.
	var machine []string
	for _, dir := range []func() (string, error){os.UserCacheDir, os.UserConfigDir} {
		if d, err := dir(); err == nil {
			machine = append(machine, d+"/")
		}
	}
	tree := os.DirFS("..")
	err := walkTree(tree, func(name string) error {
		text, err := fs.ReadFile(tree, name)
		for _, p := range machine {
			if bytes.Contains(text, []byte(p)) {
				t.Errorf("%s contains %s, a path of this machine", name, p)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoSleepInTests(t *testing.T) {
	problems, err := sleeps(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: a test that sleeps is slow or wrong: wait for what you wait for, or use testing/synctest", p)
	}
}

// sleeps finds time.Sleep in tests, outside of synctest.Test, where time costs none.
func sleeps(tree fs.FS) ([]string, error) {
	var found []string
	err := walkGo(tree, func(name string, text []byte) error {
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if ok && isSelector(sel, importName(file, "time"), "Sleep") {
				found = append(found, set.Position(sel.Pos()).String())
			}
			call, ok := n.(*ast.CallExpr)
			return !ok || !isSelector(call.Fun, importName(file, "testing/synctest"), "Test")
		})
		return nil
	})
	return found, err
}

func isSelector(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok || pkg == "" || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == pkg
}

func TestSleeps(t *testing.T) {
	const head = "package p\nimport (\"time\"; \"testing/synctest\")\n"
	tests := []struct {
		name, file, text string
		want             int
	}{
		{"plain", "a_test.go", "func f() { time.Sleep(1) }", 1},
		{"as a value", "a_test.go", "var f = time.Sleep", 1},
		{"in a bubble", "a_test.go", "func f() { synctest.Test(nil, func(t *T) { time.Sleep(1) }) }", 0},
		{"beside a bubble", "a_test.go", "func f() { synctest.Test(nil, g); time.Sleep(1) }", 1},
		{"not a test", "a.go", "func f() { time.Sleep(1) }", 0},
		{"another Sleep", "a_test.go", "func f() { clock.Sleep(1) }", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sleeps(fstest.MapFS{tt.file: {Data: []byte(head + tt.text)}})
			if err != nil || len(got) != tt.want {
				t.Errorf("got %v, %v, want %d", got, err, tt.want)
			}
		})
	}
}
