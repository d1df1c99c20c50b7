package main

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"huck/imager/api"
)

// slowMachine has a second disk from a certain time on, which the kernel has
// found a second before, and never if that is later than an hour.
type slowMachine struct {
	*fakeMachine
	from   time.Time
	second api.Disk
}

func (m *slowMachine) Disks() ([]api.Disk, error) {
	disks := []api.Disk{{Path: "/dev/sda", Size: 1 << 30, Serial: "S1"}}
	if !m.from.IsZero() && !time.Now().Before(m.from) {
		disks = append(disks, m.second)
	}
	return disks, nil
}

func (m *slowMachine) DiskComing() bool {
	return !m.from.IsZero() && time.Now().Before(m.from) && (time.Until(m.from) < time.Second || time.Until(m.from) > time.Hour)
}

// How long choosing a disk takes, from the assignment on, which comes a while
// after the first look.
func TestTargetWaits(t *testing.T) {
	const network = 500 * time.Millisecond
	disk := api.Disk{Path: "/dev/sdb", Size: 1 << 29, Serial: "S2"}
	stick := disk
	stick.Removable = true
	for _, tt := range []struct {
		name    string
		mayCome bool
		disk    api.Disk
		second  time.Duration // when that comes, after the first look; 0 for never
		rule    string
		wait    time.Duration
		want    string // disk, or words of the error
	}{
		{"nothing can come", false, disk, 0, "only", 0, "/dev/sda"},
		{"the clock has run all the while", true, disk, 0, "only", settle - network, "/dev/sda"},
		{"a second one comes meanwhile", true, disk, network + 300*time.Millisecond, "only", diskPatience, "matches 2"},
		{"a smaller one comes meanwhile", true, disk, network + 300*time.Millisecond, "smallest", 400*time.Millisecond + settle, "/dev/sdb"},
		{"a smaller one spins up", true, disk, network + 1200*time.Millisecond, "smallest", 1200*time.Millisecond + settle, "/dev/sdb"},
		{"one is found that never comes", true, disk, 2 * time.Hour, "smallest", diskPatience, "/dev/sda"},
		{"a stick comes meanwhile", true, stick, network + 300*time.Millisecond, "only", settle - network, "/dev/sda"},
		{"a stick comes later", true, stick, network + 1200*time.Millisecond, "only", 1200 * time.Millisecond, "/dev/sda"},
		{"the one named comes late", true, disk, 10 * time.Second, "serial=S2", 10*time.Second - network + settle, "/dev/sdb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &slowMachine{fakeMachine: &fakeMachine{diary: &diary{}, mayCome: tt.mayCome}, second: tt.disk}
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
