package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"huck/imager/api"
	"huck/imager/personal"
	"huck/initramfs/scripts"
	"huck/initramfs/server"
	"huck/initramfs/steps"
)

// personaliser is what a machine does to make an installed system its own.
type personaliser interface {
	// Personalise writes into the system on the disk, and tells what.
	Personalise(path string, p *personal.Personality) (string, error)
	// ScriptHere runs a script in the appliance; ScriptsThere runs, in the system
	// on the disk, all that p has for after the installation.
	ScriptHere(ctx context.Context, s personal.Script, cfg scripts.Config) error
	ScriptsThere(ctx context.Context, path string, p *personal.Personality, cfg scripts.Config) error
}

// personalising returns the steps before the disk is chosen and those after it
// was written; none if the assignment has no personalisation.
func (b *boot) personalising(a api.Assignment, target *api.Disk) (before, after []steps.Step) {
	if !a.Personalise {
		return nil, nil
	}
	p := new(personal.Personality)
	before = []steps.Step{
		// First of all: a document that makes no sense is to cost nothing.
		{Name: "personality", Silence: time.Minute, Tries: 5, Do: func(ctx context.Context, _ func()) (string, error) {
			got, err := b.client.Personality(ctx)
			if err != nil {
				if server.Permanent(err) || errors.Is(err, personal.ErrInvalid) {
					err = steps.Permanent(err)
				}
				return "", err
			}
			*p = *got
			return "", nil
		}},
		{Name: "scripts-before", Silence: time.Minute, Tries: 1, Do: b.scriptsBefore(a, p)},
	}
	return before, []steps.Step{
		{Name: "personalise", Silence: 5 * time.Minute, Tries: 2, Do: func(context.Context, func()) (string, error) {
			if !p.Changes() {
				return "nothing to do", nil
			}
			return b.m.Personalise(target.Path, p)
		}},
		{Name: "scripts-after", Silence: time.Minute, Tries: 1, Do: b.scriptsAfter(p, target)},
	}
}

func (b *boot) scriptsBefore(a api.Assignment, p *personal.Personality) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, alive func()) (string, error) {
		// A script may be there to make the disk; then the rule names none yet.
		path := ""
		if r, err := api.ParseRule(a.Disk); err == nil && b.lookAtDisks() == nil {
			if d, err := r.Select(b.disks.list); err == nil {
				path = d.Path
			}
		}
		cfg := b.scriptConfig("scripts-before", p, path, "")
		defer keepAlive(alive)()
		for _, s := range p.Scripts.Before {
			cfg.Line("script " + s.Name)
			if err := b.m.ScriptHere(ctx, s, cfg); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("%d scripts", len(p.Scripts.Before)), nil
	}
}

func (b *boot) scriptsAfter(p *personal.Personality, target *api.Disk) func(context.Context, func()) (string, error) {
	return func(ctx context.Context, alive func()) (string, error) {
		if len(p.Scripts.After) == 0 {
			return "0 scripts", nil
		}
		defer keepAlive(alive)()
		err := b.m.ScriptsThere(ctx, target.Path, p, b.scriptConfig("scripts-after", p, target.Path, "/"))
		return fmt.Sprintf("%d scripts", len(p.Scripts.After)), err
	}
}

// scriptConfig has what a script says told here and to the server.
func (b *boot) scriptConfig(step string, p *personal.Personality, disk, root string) scripts.Config {
	return scripts.Config{
		Env: append(p.Facts.Environment(), "HUCK_DISK="+disk, "HUCK_ROOT="+root),
		Line: func(text string) {
			b.print("%s: %s", step, text)
			b.run.Event(api.Event{Type: api.EventLog, Step: step, Message: text})
		},
	}
}

// keepAlive gives signs of life until the function that it returns is called:
// a script may say nothing for as long as its own time limit.
func keepAlive(alive func()) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(5 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				alive()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
