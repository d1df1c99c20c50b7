package main

import (
	"regexp"
	"strings"
	"testing"
)

// Without a terminal a progress of 100 events is a handful of lines.
func TestBoardPlain(t *testing.T) {
	var out strings.Builder
	b := newBoard(&out, false, "first", "second")
	b.set(0, "step network", 0)
	b.set(0, "step network", 0)
	for percent := range 101 {
		b.set(1, "on the disk", percent)
	}
	got := regexp.MustCompile(`(?m)^ +[\d.]+ s  `).ReplaceAllString(out.String(), "")
	want := "first   step network\nsecond  on the disk\nsecond   20 %  on the disk\nsecond   40 %  on the disk\n" +
		"second   60 %  on the disk\nsecond   80 %  on the disk\nsecond  100 %  on the disk\n"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// A terminal shows one line a machine.
func TestBoardTerminal(t *testing.T) {
	var out strings.Builder
	b := newBoard(&out, true, "first", "second")
	b.set(0, "one", 0)
	b.set(1, "two", 50)
	b.end()
	want := "\r\x1b[Kfirst   one\n\r\x1b[Ksecond  \n\x1b[2A\r\x1b[Kfirst   one\n\r\x1b[Ksecond   50 %  two\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
