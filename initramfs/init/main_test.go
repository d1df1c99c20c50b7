package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/initramfs/rescue"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"by its own name", []string{"/init", "base64"}, 0, "aHVjawo="},
		{"by a link's name", []string{"/bbin/base64"}, 0, "aHVjawo="},
		{"nothing to do", []string{"/init"}, 2, "usage:"},
		{"unknown", []string{"/init", "frobnicate"}, 2, "usage:"},
		{"a command's usage", []string{"grep"}, 2, "usage: grep"},
		{"a command's exit code", []string{"grep", "nothing"}, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			code := run(context.Background(), tt.args, rescue.IO{In: strings.NewReader("huck\n"), Out: &out, Err: &out})
			if code != tt.code || !strings.Contains(out.String(), tt.out) {
				t.Errorf("exit code %d, output %q", code, out.String())
			}
		})
	}
}

func TestListCommands(t *testing.T) {
	var out bytes.Buffer
	if code := run(context.Background(), []string{"init", "--list-commands"}, rescue.IO{Out: &out}); code != 0 {
		t.Fatal(code)
	}
	names := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if !slices.IsSorted(names) {
		t.Error("not sorted")
	}
	for _, want := range []string{"cat", "cp", "disks", "dmesg", "ip", "ls", "mount", "ps", "reboot", "sh", "shasum", "tar", "umount"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among %v", want, names)
		}
	}
}

func TestProgressLine(t *testing.T) {
	p := api.Progress{Total: 100 << 20, Planned: 50 << 20, InPlace: 10 << 20, Written: 30 << 20, Received: map[string]int64{"multicast": 20 << 20, "http": 1 << 20}}
	want := "40% of 100 MiB at 5.0 MiB/s, compared 50%, in place 10%, multicast 20.0 MiB, http 1.0 MiB"
	if got := progressLine(p, 5<<20); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := progressLine(api.Progress{}, 0); !strings.HasPrefix(got, "100% of 0 MiB") {
		t.Errorf("empty image: %q", got)
	}
}
