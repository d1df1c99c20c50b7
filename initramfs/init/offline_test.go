package main

import (
	"errors"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/install"
	"huck/imager/store"
)

// carried is a medium with an image and this to do.
func carried(t *testing.T, then api.Then) onMedium {
	t.Helper()
	images, err := store.Open(t.TempDir(), store.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	a := install1(then)
	return onMedium{Assignment: &a, Images: images}
}

func TestOffline(t *testing.T) {
	s := newScene(t)
	s.boot.opts.Medium = "HUCK_1"
	s.machine.medium = carried(t, api.ThenKexec)
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "step medium: done", "/dev/sr0, with deb:1", "step target: done", "receive deb:1 to /dev/sda over , verify true from a store",
		"step verify: done", "reread /dev/sda", "load /dev/sda", "leave", "kexec")
	s.without(t, "step network", "step server", "event ")
}

func TestOfflineRefused(t *testing.T) {
	s := newScene(t)
	s.boot.opts.Medium = "HUCK_1"
	s.machine.medium = carried(t, api.ThenReboot)
	s.machine.receives = []error{&install.Refused{Device: "/dev/sda", Why: "too small"}}
	s.start(t)
	s.await(t, "offer")
	s.order(t, "step receive: FAILED", "GIVEN UP", "too small")
	s.without(t, "reboot", "load /dev/sda")
}

// A medium that brings nothing, that is gone, or that cannot be read, leaves the network.
func TestMediumWithoutImage(t *testing.T) {
	images := carried(t, api.ThenKexec).Images
	for name, on := range map[string]onMedium{"nothing on it": {Images: images}, "gone": {}} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.boot.opts.Medium, s.boot.mediumPatience = "HUCK_1", 0
			s.machine.medium = on
			s.server.assign(install1(api.ThenPoweroff))
			s.start(t)
			if err := <-s.done; err != nil {
				t.Fatal(err)
			}
			s.order(t, "step medium:", "step network: done", "receive deb:1 to /dev/sda over lo", "poweroff")
			if gone := name == "gone"; gone != strings.Contains(s.String(), "step medium: FAILED") {
				t.Errorf("in\n%s", s)
			}
		})
	}
}

var errBurnt = errors.New("burnt badly")

func TestMediumUnreadable(t *testing.T) {
	s := newScene(t)
	s.boot.opts.Medium = "HUCK_1"
	s.machine.mediumErr = errBurnt
	s.server.assign(install1(api.ThenPoweroff))
	s.start(t)
	if err := <-s.done; err != nil {
		t.Fatal(err)
	}
	s.order(t, "step medium: FAILED: burnt badly", "step network: done", "poweroff")
}
