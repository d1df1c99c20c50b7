package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

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
