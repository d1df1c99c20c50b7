package state_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"huck/bootserver/state"
)

func open(t *testing.T, dir string) *state.Store {
	t.Helper()
	s, err := state.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPutGetListDelete(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	if v, err := s.Get(ctx, "a/1"); v != nil || err != nil {
		t.Fatalf("Get of nothing = %q, %v", v, err)
	}
	for _, k := range []string{"a/1", "a/2", "b/1"} {
		if err := s.Put(ctx, k, []byte("value of "+k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "a/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	m, err := s.List(ctx, "a/")
	if err != nil || len(m) != 1 || string(m["a/2"]) != "value of a/2" {
		t.Fatalf("after reopening List = %q, %v", m, err)
	}
}

// TestNoSockets looks from outside: the process that holds a store has no
// listening socket, TCP or Unix.
func TestNoSockets(t *testing.T) {
	before := sockets(t)
	s := open(t, t.TempDir())
	defer s.Close()
	if after := sockets(t); after != before {
		t.Errorf("listening sockets: %q before, %q with a store open", before, after)
	}
}

// sockets returns the listening sockets of this process as the kernel lists
// them.
func sockets(t *testing.T) string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	mine := map[string]bool{}
	for _, fd := range fds {
		if l, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(l, "socket:[") {
			mine[strings.Trim(l[len("socket:"):], "[]")] = true
		}
	}
	var found []string
	for _, f := range []struct {
		name          string
		state, inode  int
		listeningWord string
	}{{"tcp", 3, 9, "0A"}, {"tcp6", 3, 9, "0A"}, {"unix", 5, 6, "01"}} {
		b, err := os.ReadFile("/proc/self/net/" + f.name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			if len(w) > f.inode && w[f.state] == f.listeningWord && mine[w[f.inode]] {
				found = append(found, f.name+" "+w[1])
			}
		}
	}
	return strings.Join(found, ", ")
}

// TestSIGKILL kills a process that writes as fast as it can: every put it had
// acknowledged is there afterwards.
func TestSIGKILL(t *testing.T) {
	if dir := os.Getenv("HUCK_STATE_WRITER"); dir != "" {
		s := open(t, dir)
		for i := 0; ; i++ {
			if err := s.Put(t.Context(), fmt.Sprintf("k/%d", i), []byte(strconv.Itoa(i))); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("acknowledged %d\n", i)
		}
	}
	dir := filepath.Join(t.TempDir(), "state")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSIGKILL$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "HUCK_STATE_WRITER="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := -1
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if n, ok := strings.CutPrefix(sc.Text(), "acknowledged "); ok {
			last, _ = strconv.Atoi(n)
			if last == 50 {
				cmd.Process.Kill()
			}
		}
	}
	cmd.Wait()
	if last < 50 {
		t.Fatalf("writer ended after %d puts: %s", last, stderr.Bytes())
	}
	began := time.Now()
	s := open(t, dir)
	defer s.Close()
	t.Logf("reopened in %v after %d puts", time.Since(began), last+1)
	m, err := s.List(t.Context(), "k/")
	if err != nil {
		t.Fatal(err)
	}
	for i := range last + 1 {
		if string(m[fmt.Sprintf("k/%d", i)]) != strconv.Itoa(i) {
			t.Errorf("acknowledged put %d is lost", i)
		}
	}
}
