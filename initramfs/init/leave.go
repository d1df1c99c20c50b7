package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"huck/imager/api"
	"huck/initramfs/bootos"
	"huck/initramfs/efiboot"
	"huck/initramfs/steps"
)

// start starts the system on the disk. Failing that it does not reboot, which
// could lead back here, again and again, unless the server, who counts, says so.
func (b *boot) start(ctx context.Context, a api.Assignment) error {
	var target api.Disk
	if err := b.run.Run(ctx, steps.Step{Name: "target", Silence: time.Minute, Tries: 1, Do: b.target(a.Disk, &target)}); err != nil {
		return err
	}
	if a.Then == api.ThenReboot {
		return b.restart(ctx, target.Path)
	}
	return b.kexec(ctx, target.Path)
}

// firmware makes the disk known to the firmware. A disk that it must be told by
// hand is complete all the same.
func (b *boot) firmware(target *api.Disk) func(context.Context, func()) (string, error) {
	return func(context.Context, func()) (string, error) {
		e, err := b.m.BootEntry(target.Path, false)
		switch {
		case errors.Is(err, efiboot.ErrNoESP) || errors.Is(err, efiboot.ErrNoLoader):
			return "nothing there for UEFI to start", nil
		case err != nil:
			b.log.Warn("no boot entry; the firmware may need to be told by hand", "dev", target.Path, "err", err)
			return "no boot entry", nil
		}
		return e.String(), nil
	}
}

// restart leaves by a reset that ends on the disk: under UEFI also where the
// network comes first.
func (b *boot) restart(ctx context.Context, path string) error {
	where := ""
	if b.inventory.Firmware == "uefi" {
		if _, err := b.m.BootEntry(path, true); err != nil {
			b.log.Warn("the firmware goes its usual way", "err", err)
		} else {
			where = api.ToDisk
		}
	}
	return b.leaveFor(ctx, "reboot", where, b.m.Reboot)
}

// kexec starts the system on a disk. It returns errLeft or why it could not.
func (b *boot) kexec(ctx context.Context, path string) error {
	err := b.run.Run(ctx, steps.Step{Name: "kexec", Silence: 2 * time.Minute, Tries: 2, Do: func(context.Context, func()) (string, error) {
		e, err := b.m.Load(path)
		if err != nil {
			if errors.Is(err, bootos.ErrNoSystem) {
				err = steps.Permanent(err)
			}
			return "", err
		}
		return fmt.Sprintf("%s by %s: %s %s", e.Title, e.Source, e.Kernel.Path, e.Cmdline), nil
	}})
	if err != nil {
		return err
	}
	return b.leave(ctx, "kexec", b.m.Kexec)
}

// leave ends the appliance by doing what the name says.
func (b *boot) leave(ctx context.Context, name string, do func() error) error {
	return b.leaveFor(ctx, name, "", do)
}

// leaveFor is leave with a word on where it leads: api.ToDisk, or nothing.
func (b *boot) leaveFor(ctx context.Context, name, where string, do func() error) error {
	b.run.Event(api.Event{Type: api.EventStep, Step: name, State: api.StepLeaving, Message: where})
	b.print("%s leaving: %s %s", steps.Uptime(), name, where)
	if b.client != nil {
		flush, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := b.events.Flush(flush); err != nil {
			b.log.Warn("last events", "err", err)
		}
	}
	b.m.Leave()
	if err := do(); err != nil {
		b.run.Event(api.Event{Type: api.EventStep, Step: name, State: api.StepFailed, Error: err.Error(), Message: api.GivenUp})
		return fmt.Errorf("%s: %w", name, err)
	}
	return errLeft
}
