package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
	"huck/initramfs/steps"
)

// Progress is told every two seconds, and once in between: when the first
// bytes are on the disk, whatever was found there before.
func TestProgressIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []int64
		b := &boot{
			tick: func(string, ...any) {}, print: func(string, ...any) {},
			run: &steps.Runner{Event: func(e api.Event) { told = append(told, e.Progress.Written) }},
		}
		tr := &tracker{b: b, alive: func() {}}
		for _, p := range []api.Progress{{InPlace: 1}, {InPlace: 2}, {InPlace: 2, Written: 3}, {InPlace: 2, Written: 4}} {
			p.Total = 100
			tr.progress(p)
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(every)
		tr.progress(api.Progress{Total: 100, InPlace: 2, Written: 5})
		if want := []int64{0, 3, 5}; !slices.Equal(told, want) {
			t.Errorf("told of %v bytes written, want %v", told, want)
		}
	})
}
