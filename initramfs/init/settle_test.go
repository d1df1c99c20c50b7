package main

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
)

// slowMachine has a second disk from a certain time on.
type slowMachine struct {
	*fakeMachine
	from time.Time
}

func (m *slowMachine) Disks() ([]api.Disk, error) {
	disks := []api.Disk{{Path: "/dev/sda", Size: 1 << 30, Serial: "S1"}}
	if !m.from.IsZero() && !time.Now().Before(m.from) {
		disks = append(disks, api.Disk{Path: "/dev/sdb", Size: 1 << 29, Serial: "S2"})
	}
	return disks, nil
}

// How long choosing a disk takes, from the assignment on, which comes a while
// after the first look.
func TestTargetWaits(t *testing.T) {
	const network = 1500 * time.Millisecond
	for _, tt := range []struct {
		name    string
		mayCome bool
		second  time.Duration // after the first look; 0 for never
		rule    string
		wait    time.Duration
		want    string // disk, or words of the error
	}{
		{"nothing can come", false, 0, "only", 0, "/dev/sda"},
		{"the clock has run all the while", true, 0, "only", settle - network, "/dev/sda"},
		{"a second one comes meanwhile", true, network + 300*time.Millisecond, "only", diskPatience, "matches 2"},
		{"a smaller one comes meanwhile", true, network + 300*time.Millisecond, "smallest", 400*time.Millisecond + settle, "/dev/sdb"},
		{"the one named comes late", true, 10 * time.Second, "serial=S2", 10*time.Second - network + settle, "/dev/sdb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &slowMachine{fakeMachine: &fakeMachine{diary: &diary{}, mayCome: tt.mayCome}}
				if tt.second > 0 {
					m.from = time.Now().Add(tt.second)
				}
				b := &boot{m: m, patience: diskPatience, log: slog.New(slog.DiscardHandler)}
				if err := b.lookAtDisks(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(network)
				begun := time.Now()
				var d api.Disk
				_, err := b.target(tt.rule, &d)(t.Context(), func() {})
				if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && d.Path != tt.want {
					t.Errorf("chose %s, %v", d.Path, err)
				}
				// It looks five times a second.
				if took := time.Since(begun); took < tt.wait || took > tt.wait+250*time.Millisecond {
					t.Errorf("took %v, want %v", took, tt.wait)
				}
			})
		})
	}
}
