package main

import (
	"errors"
	"testing"

	"huck/imager/api"
	"huck/initramfs/scripts"
)

// persona is what a server sends for a node with scripts.
const persona = `{"facts": {"node": "n1"}, "hostname": "n1", "scripts": {
	"before": [{"name": "raid", "text": "true"}], "after": [{"name": "grub", "text": "true"}]}}`

func personalised(s *scene, what string) {
	s.server.persona = what
	a := install1(api.ThenKexec)
	a.Personalise = true
	s.server.assign(a)
}

func TestPersonalise(t *testing.T) {
	s := newScene(t)
	personalised(s, persona)
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "step personality: done", "here raid with [", "HUCK_NODE=n1", "HUCK_DISK=/dev/sda HUCK_ROOT=]", "console scripts-before: said by raid",
		"step target: done", "receive deb:1", "reread /dev/sda", "personalise /dev/sda as n1", "there grub on /dev/sda", "event installed", "load /dev/sda", "\nkexec")
	s.order(t, "event log scripts-before", "event installed")
}

// TestPersonaliseNot: an assignment without a personalisation has no step of it.
func TestPersonaliseNot(t *testing.T) {
	s := newScene(t)
	s.server.assign(install1(api.ThenKexec))
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.without(t, "personal", "scripts")
}

// TestPersonaliseFails: nothing goes on after a failure: before the disk is
// written if it was before, and never into a system that is not what it is to be.
func TestPersonaliseFails(t *testing.T) {
	for _, tt := range []struct {
		name, persona, cause string
		change               func(*fakeMachine)
		written              bool
	}{
		{"no sense", "", "no such fact", func(*fakeMachine) {}, false},
		{"refused by the appliance", `{"hostname": "a b"}`, "a b", func(*fakeMachine) {}, false},
		{"script before", persona, "script raid ended with exit status 3", func(m *fakeMachine) {
			m.script = map[string]error{"raid": &scripts.Failed{Name: "raid", How: "ended with exit status 3"}}
		}, false},
		{"no root", persona, "no root filesystem", func(m *fakeMachine) { m.persona = errors.New("no root filesystem") }, true},
		{"script after", persona, "script grub took longer than 5m", func(m *fakeMachine) {
			m.script = map[string]error{"grub": &scripts.Failed{Name: "grub", How: "took longer than 5m"}}
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			tt.change(s.machine)
			personalised(s, tt.persona)
			s.start(t)
			s.await(t, "event log   step ")
			s.order(t, "FAILED: ", tt.cause, "GIVEN UP", tt.cause)
			s.without(t, "event installed", "load /dev/sda", "leave")
			if tt.written {
				s.order(t, "receive deb:1")
			} else {
				s.without(t, "receive deb:1")
			}
		})
	}
}
