package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"huck/build/uki/ukitest"
)

func TestRunUsage(t *testing.T) {
	tests := []struct {
		args   string
		stdout string
		want   string // in the error
	}{
		{"--help", "usage: go run ./build COMMAND", ""},
		{"-h", "-firmware folder", ""},
		{"help", "exit codes", ""},
		{"kernel --help", "usage:", ""},
		{"", "", "no command given"},
		{"nothing", "", `no command "nothing"`},
		{"kernel initramfs", "", `unexpected argument "initramfs" after "kernel"`},
		{"kernel --colour red", "", "not defined: -colour"},
		{"--jobs many kernel", "", "invalid value"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := run(t.Context(), env{&stdout, &stderr, os.Getenv}, strings.Fields(tt.args))
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("got %q, want %q", stdout.String(), tt.stdout)
			}
			var usage usageError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (!errors.As(err, &usage) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestHelpNamesEveryVariable(t *testing.T) {
	var help bytes.Buffer
	if err := run(t.Context(), env{&help, &help, os.Getenv}, []string{"--help"}); err != nil {
		t.Fatal(err)
	}
	for _, v := range fromEnv {
		if !strings.Contains(help.String(), v.variable) {
			t.Errorf("--help says nothing of %s", v.variable)
		}
	}
}

func TestComplete(t *testing.T) {
	tests := []struct {
		name        string
		given       options
		env         map[string]string
		cache, ipxe string
	}{
		{"defaults", options{}, map[string]string{"HOME": "/h"}, "/h/.cache/huck", ipxeFolder},
		{"XDG", options{}, map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huck", ipxeFolder},
		{"environment", options{}, map[string]string{"HOME": "/h", "HUCK_CACHE": "/c", "IPXE": "/i"}, "/c", "/i"},
		{"flags win", options{cache: "/f", ipxe: "/g"}, map[string]string{"HUCK_CACHE": "/c", "IPXE": "/i"}, "/f", "/g"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := tt.given
			if err := o.complete(env{getenv: func(k string) string { return tt.env[k] }}); err != nil {
				t.Fatal(err)
			}
			if o.cache != tt.cache || o.ipxe != tt.ipxe {
				t.Errorf("got cache %s, ipxe %s, want %s, %s", o.cache, o.ipxe, tt.cache, tt.ipxe)
			}
			if _, err := os.Stat(filepath.Join(o.root, "build", "bootstrap.sh")); err != nil {
				t.Errorf("root is %s: %v", o.root, err)
			}
		})
	}
	var o options
	if err := o.complete(env{getenv: func(string) string { return "" }}); err == nil || !strings.Contains(err.Error(), "HUCK_CACHE") {
		t.Errorf("without any folder: got %v", err)
	}
}

func TestOutsideTheCheckout(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := run(t.Context(), env{os.Stdout, os.Stderr, os.Getenv}, []string{"kernel"}); err == nil || !strings.Contains(err.Error(), "not inside the checkout") {
		t.Errorf("got %v", err)
	}
}

// A whole run in a checkout of its own: given kernel, a small init, made-up boot loaders.
func TestNetboot(t *testing.T) {
	root, ipxe := t.TempDir(), t.TempDir()
	files := map[string]string{
		filepath.Join(root, "go.mod"):                       "module huck\n\ngo 1.26\n",
		filepath.Join(root, "kernel-config", "a.config"):    "CONFIG_A=y\n",
		filepath.Join(root, "initramfs", "init", "main.go"): "package main\nfunc main() {}\n",
		filepath.Join(ipxe, "bzImage"):                      "the kernel",
		filepath.Join(ipxe, "stub"):                         string(ukitest.Stub()),
		filepath.Join(ipxe, "undionly.kpxe"):                "u",
		filepath.Join(ipxe, "snponly.efi"):                  "s",
		filepath.Join(ipxe, "ipxe.efi"):                     "i",
	}
	for path, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(root)
	var stderr bytes.Buffer
	getenv := func(k string) string {
		return map[string]string{"KERNEL": filepath.Join(ipxe, "bzImage"), "IPXE": ipxe, "STUB": filepath.Join(ipxe, "stub"), "HOME": root}[k]
	}
	if err := run(t.Context(), env{&stderr, &stderr, getenv}, []string{"netboot"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vmlinuz", "initramfs.cpio.zst", "huck.efi", "boot.json", "undionly.kpxe", "snponly.efi", "ipxe.efi"} {
		if _, err := os.Stat(filepath.Join(root, "build", "out", "netboot", name)); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"kernel: taking", "kernel: done in", "initramfs: done in", "uki: command line", "netboot: vmlinuz"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("it said %q, want %q", stderr.String(), want)
		}
	}
}

func TestExitCode(t *testing.T) {
	stopped, stop := context.WithCancel(context.Background())
	stop()
	tests := []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{context.Background(), nil, 0},
		{context.Background(), errors.New("broken"), 1},
		{context.Background(), fmt.Errorf("wrapped: %w", usageError{"what?"}), 2},
		{stopped, errors.New("killed"), 130},
		{stopped, nil, 0},
	}
	for _, tt := range tests {
		if got := exitCode(tt.ctx, tt.err); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.err, got, tt.want)
		}
	}
}
