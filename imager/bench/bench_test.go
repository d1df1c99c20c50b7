package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// invoke runs the program as main does.
func invoke(ctx context.Context, args ...string) (stdout string, code int) {
	var out, log bytes.Buffer
	err := run(ctx, Env{&out, &log}, args)
	return out.String(), exitCode(err)
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"cast --list", 0, "slowswitch  every port"},
		{"cast --list --scenario killed", 0, "killed"},
		{"cast --help", 0, "--scenario"},
		{"cast --scenario nothing", 2, ""},
		{"cast --tools bittorrent", 2, ""},
		{"cast --n 0", 2, ""},
		{"cast --rate fast", 2, ""},
		{"cast --no-such-flag", 2, ""},
		{"image --runs 0", 2, ""},
		{"image --size 1", 2, ""},
		{"image --help", 0, "--from"},
		{"", 2, ""},
		{"soak --receivers 0", 2, ""},
		{"soak --rate fast", 2, ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, code := invoke(t.Context(), strings.Fields(tt.args)...)
			if code != tt.code || !strings.Contains(out, tt.says) {
				t.Errorf("exit code %d, want %d; said %q, want %q", code, tt.code, out, tt.says)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errBar, 1},
		{errors.New("broken"), 1},
		{fmt.Errorf("no: %w", errUsage), 2},
		{fmt.Errorf("interrupted: %w", context.Canceled), 130},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
}

func TestScenarios(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range scenarios {
		if seen[s.name] {
			t.Errorf("two scenarios are named %s", s.name)
		}
		seen[s.name] = true
		if len(s.bars) == 0 || s.runs < 1 || s.mib < 1 || s.rate < mbit || s.about == "" {
			t.Errorf("%s is not filled in", s.name)
		}
		for _, n := range s.n {
			trials := s.trials(trial{Scenario: s.name, Tool: "huck", N: n, Size: 1 << 20, Rate: s.rate})
			if last := trials[len(trials)-1]; last.Role != "" || last.N != n {
				t.Errorf("%s ends with %+v, want what it is about", s.name, last)
			}
		}
	}
}

func TestLinks(t *testing.T) {
	const rate = 100 * mbit
	l := trial{N: 2, Rate: rate, Loss: 0.1, SlowPort: 0.15, LoseFirst: 8, ServerRate: gbit}.links()
	if len(l) != 3 {
		t.Fatalf("%d links, want 3", len(l))
	}
	if l[0].Up != gbit || l[0].Loss != 0 || l[0].LoseFirst != 0 {
		t.Errorf("the server's link is %+v", l[0])
	}
	if l[1].Up != rate || l[1].Down != rate || l[1].Loss != 0.1 || l[1].LoseFirst != 0 {
		t.Errorf("the first receiver's link is %+v", l[1])
	}
	if l[2].Down != 15*mbit || l[2].LoseFirst != 8 {
		t.Errorf("the last receiver's link is %+v", l[2])
	}
	if l := (trial{N: 2, Rate: rate, Polite: true}).links(); len(l) != 4 || l[3].Up != rate {
		t.Errorf("beside a polite channel there are %+v", l)
	}
}

func TestLimit(t *testing.T) {
	plain := trial{N: 1, Size: 1e6, Rate: 8 * mbit}
	if got, want := plain.limit(), time.Minute+3*time.Second; got != want {
		t.Errorf("limit %v, want %v", got, want)
	}
	plain.SlowPort, plain.Channels = 0.5, 2
	if got, want := plain.limit(), time.Minute+12*time.Second; got != want {
		t.Errorf("limit with a slow port and two channels %v, want %v", got, want)
	}
	plain.Timeout = time.Second
	if got := plain.limit(); got != time.Second {
		t.Errorf("limit %v, want the one given", got)
	}
}

func TestLines(t *testing.T) {
	if u, ok := readyURL(`{"event":"ready","http":"10.77.0.1:4567","image":"@aa"}`); !ok || u != "http://10.77.0.1:4567/" {
		t.Errorf("ready line: %q, %t", u, ok)
	}
	for _, line := range []string{"", "ready", `{"event":"done"}`, `{"event":"ready"`} {
		if u, ok := readyURL(line); ok {
			t.Errorf("%q is ready at %q?", line, u)
		}
	}
	r, ok := doneResult(`{"event":"done","image":"@aa","encoded_bytes":9,"received":{"multicast":7,"http":2},"repair_bytes":1,"seconds":1.5}`)
	if !ok || r.Received["multicast"] != 7 || r.Received["http"] != 2 || r.RepairBytes != 1 {
		t.Errorf("done line: %+v, %t", r, ok)
	}
	if _, ok := doneResult(`{"event":"progress","done":1}`); ok {
		t.Error("progress is not the end")
	}
	uftp, err := toolNamed("uftp")
	if err != nil {
		t.Fatal(err)
	}
	if !uftp.complete("RESULT;2026/11/21-10:21:42;0A4D0001;AFB332C0;bench1-16.raw;16384KB;copied") || uftp.complete("CONNECT;x") ||
		uftp.complete("RESULT;2026/11/21-10:21:42;0A4D0001;AFB332C0;bench1-16.raw;16384KB;rejected") {
		t.Error("a line of uftpd's is misread")
	}
}

func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	want := write("want", b)
	if err := sameFile(write("same", b), want); err != nil {
		t.Error(err)
	}
	changed := bytes.Clone(b)
	changed[300<<10] ^= 1
	for name, bad := range map[string][]byte{"changed": changed, "cut": b[:len(b)-1], "cut at a block": b[:256<<10], "longer": append(bytes.Clone(b), 0), "empty": nil} {
		if sameFile(write("bad", bad), want) == nil {
			t.Errorf("%s: no difference found", name)
		}
	}
	if sameFile(filepath.Join(dir, "none"), want) == nil {
		t.Error("no file is not the same")
	}
	if sameFile(write("empty", nil), write("empty too", nil)) != nil {
		t.Error("two empty files differ")
	}
}

func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "target")
	r := rand.New(rand.NewPCG(1, 1))
	if err := damage(path, r); err != nil {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := damage(path, r); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1<<20 || !bytes.Contains(b, []byte("damage")) {
		t.Errorf("%d bytes, damaged: %t, %v", len(b), bytes.Contains(b, []byte("damage")), err)
	}
}
