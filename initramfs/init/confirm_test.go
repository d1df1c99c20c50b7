package main

import (
	"testing"

	"huck/imager/api"
)

// TestConfirm: nothing is written before somebody has typed the right serial
// number, having seen what stands on the disk.
func TestConfirm(t *testing.T) {
	s := newScene(t)
	s.machine.contents = map[string][]api.Content{"/dev/sda": {{Partition: 1, Kind: "ext4", Label: "data", Size: 5e6}}}
	a := install1(api.ThenPoweroff)
	a.Confirm = true
	s.server.assign(a)
	s.start(t)
	s.await(t, "asked type its serial number, S1")
	s.order(t, "/dev/sda is about to be OVERWRITTEN with deb:1", `on it: 1 ext4 "data", 5 MB`, "asked")
	s.without(t, "receive deb:1")
	s.typed <- "S2"
	s.await(t, "that is not S1: nothing is written")
	s.without(t, "receive deb:1")
	s.typed <- "s1"
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "that is not S1", "receive deb:1", "poweroff")
}

// TestConfirmOvertaken: an operator who changes his mind ends the wait.
func TestConfirmOvertaken(t *testing.T) {
	s := newScene(t)
	a := install1(api.ThenPoweroff)
	a.Confirm = true
	s.server.assign(a)
	s.start(t)
	s.await(t, "asked")
	b := install1(api.ThenPoweroff)
	b.Serial, b.Ref = 2, "deb:2"
	s.server.assign(b)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "asked", "GIVEN UP: ", "the assignment was changed", "receive deb:2", "poweroff")
	s.without(t, "receive deb:1")
}
