package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"huck/imager/api"
	"huck/imager/capture"
	"huck/imager/image"
	"huck/imager/install"
	"huck/imager/receive"
	"huck/initramfs/bootos"
	"huck/initramfs/cmdline"
	"huck/initramfs/efiboot"
	"huck/initramfs/network"
	"huck/initramfs/server"
	"huck/initramfs/steps"
)

// boot is one boot of a machine, from the network to the system on its disk.
type boot struct {
	opts cmdline.Options
	bad  error // settings that make no sense
	m    machine
	net  networker
	// discover asks a lease's link for a server: network.Discover.
	discover func(ctx context.Context, l network.Lease) (*url.URL, error)
	print    func(format string, args ...any)
	tick     func(format string, args ...any) // a line that a screen tells better
	again    <-chan struct{}                  // somebody wants what failed tried again; nil is never
	offer    func()                           // lets people open a shell
	// ask returns what somebody at the machine answers.
	ask    func(ctx context.Context, question string) (string, error)
	log    *slog.Logger
	run    *steps.Runner
	events *server.Queue

	inventory api.Inventory
	leases    []network.Lease
	lease     network.Lease // the one that leads to the server
	server    *url.URL
	client    *server.Client

	// medium is what the medium that we were started from brings along.
	medium onMedium

	// after is the serial of the last assignment carried out, or given up.
	after uint64
	// givenUp tells that it was the latter.
	givenUp bool
	// stay is set by "then wait": a finished machine does not start its disk on
	// its own.
	stay bool

	// reportOnly is for a boot that is only to tell the server of crashes.
	reportOnly bool

	disks disksSeen
	// patience is how long a disk may take to appear: diskPatience.
	patience time.Duration
	// mediumPatience is how long the medium may take.
	mediumPatience time.Duration
}

// machine is what the boot does to the hardware and the kernel.
type machine interface {
	// Inventory is without disks and addresses.
	Inventory() api.Inventory
	Disks() ([]api.Disk, error)
	// DisksMayCome tells whether disks may still be on their way, and DiskComing
	// that one is.
	DisksMayCome() bool
	DiskComing() bool
	// Contents tells what stands on a disk.
	Contents(d api.Disk) ([]api.Content, error)
	// Medium finds and reads the medium of this name, and tells its device.
	Medium(name string) (m onMedium, path string, err error)
	Receive(ctx context.Context, cfg receive.Config) (api.Result, error)
	Reread(path string) error
	personaliser
	// Capture makes an image of the disk; it adds the disk to cfg.
	Capture(ctx context.Context, path string, cfg capture.Config) (capture.Result, error)
	// Activity returns something else whenever the disk has done something.
	Activity(path string) string
	// Load finds the system on the disk and loads it for kexec.
	Load(path string) (bootos.Entry, error)
	// BootEntry makes the disk known to UEFI firmware and, if next is set, has
	// it started at the next reset.
	BootEntry(path string, next bool) (efiboot.Entry, error)
	// Kexec, Reboot and PowerOff return only on failure (or in a test).
	Kexec() error
	Reboot() error
	PowerOff() error
	// Leave is called before these three: nothing is to be done after them.
	Leave()
}

// networker is a *network.Network.
type networker interface {
	Leases() <-chan network.Lease
	Choose(ifname string)
	String() string
}

// tell is the story of one boot. It returns when the machine is left, which
// only tests live to see, or ctx is done.
func (b *boot) tell(ctx context.Context) error {
	if err := b.run.Run(ctx, steps.Step{Name: "settings", Silence: 10 * time.Second, Do: b.settings}); err != nil {
		return err
	}
	if b.opts.Medium != "" {
		// One that is gone, or cannot be read, leaves the network.
		_ = b.run.Run(ctx, steps.Step{Name: "medium", Silence: time.Minute, Tries: 1, Do: b.lookAtMedium})
	}
	if b.medium.Assignment != nil {
		return b.offline(ctx)
	}
	for _, s := range []steps.Step{
		{Name: "network", Silence: 20 * time.Second, MaxWait: 5 * time.Second, Do: b.network},
		{Name: "server", Silence: 20 * time.Second, MaxWait: 10 * time.Second, Do: b.findServer},
		{Name: "register", Silence: 30 * time.Second, MaxWait: 10 * time.Second, Do: b.register},
	} {
		if err := b.run.Run(ctx, s); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	sender := make(chan struct{})
	go func() { defer close(sender); b.events.Run(ctx, b.client.Post) }()
	defer func() { stop(); <-sender }()

	if b.reportOnly {
		b.run.Event(api.Event{Type: api.EventLog, Message: "too many crashes, restarting the machine"})
		if err := b.leave(ctx, "restart", b.m.Reboot); !errors.Is(err, errLeft) {
			return err
		}
		return nil
	}
	for {
		a, err := b.assignment(ctx)
		if err != nil {
			return err
		}
		b.after, b.givenUp = a.Serial, false
		err = b.carryOut(ctx, a)
		if errors.Is(err, errLeft) || ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.giveUp(err)
		}
	}
}

// errLeft says that the machine has been left: kexec, reboot, power-off.
var errLeft = errors.New("the machine has been left")

// settings complains of a command line that makes no sense, but goes on with
// what does.
func (b *boot) settings(context.Context, func()) (string, error) {
	if b.bad != nil {
		b.log.Warn("kernel command line", "err", b.bad)
	}
	b.inventory = b.m.Inventory()
	i := b.inventory
	if err := b.lookAtDisks(); err != nil {
		b.log.Warn("disks", "err", err)
	}
	return fmt.Sprintf("%s %s, serial %q, %s, %d CPUs, %d MiB, disks: %s",
		i.Manufacturer, i.Product, i.Serial, i.Firmware, i.CPUs, i.Memory>>20, b.disks), nil
}

// register makes the machine known.
func (b *boot) register(ctx context.Context, _ func()) (string, error) {
	if b.client == nil {
		b.inventory.Address = b.lease.Addr.Addr().String()
		b.inventory.MACs = macs(b.inventory.MACs, b.lease.Interface)
		b.client = server.New(b.server, b.present)
	}
	reg, err := b.client.Register(ctx)
	if err != nil {
		return "", err
	}
	if !reg.Known {
		return fmt.Sprintf("node %s, unknown to the server so far", reg.Node), nil
	}
	return "node " + reg.Node, nil
}

// present is the inventory as it is now. Registering anew may happen at any
// time, also while a disk is being written.
func (b *boot) present() api.Inventory {
	i := b.inventory
	if d, err := b.m.Disks(); err == nil {
		i.Disks = b.lookInto(d)
	}
	return i
}

// assignment waits for something to do, visibly, doing nothing.
func (b *boot) assignment(ctx context.Context) (a api.Assignment, err error) {
	err = b.run.Run(ctx, steps.Step{Name: "assignment", Silence: api.LongPoll + time.Minute, MaxWait: 10 * time.Second, Do: func(ctx context.Context, alive func()) (string, error) {
		waiting := time.AfterFunc(time.Second, func() {
			b.print("waiting for an assignment (node %s, server %s)", b.client.Node(), b.server)
			b.offer()
		})
		defer waiting.Stop()
		for {
			alive()
			if a, err = b.poll(ctx); err != nil {
				return "", err
			}
			if a.Serial != b.after && b.wanted(a) {
				return describe(a), nil
			}
			if a.Serial != b.after && a.Why != "" {
				b.print("STOPPED: %s", a.Why)
				b.offer()
			}
			if a.Serial != b.after {
				b.after = a.Serial
			} else if err := steps.Sleep(ctx, time.Second); err != nil { // a server that does not hold requests
				return "", err
			}
		}
	}})
	return a, err
}

// poll asks the server what to do. Where an assignment was given up, a person
// may want the very same tried again: then it counts as new.
func (b *boot) poll(ctx context.Context) (api.Assignment, error) {
	for {
		asking, cancel := context.WithCancel(ctx)
		pressed := make(chan bool)
		go func() { // ends with asking
			select {
			case <-b.again:
				cancel()
				pressed <- true
			case <-asking.Done():
				pressed <- false
			}
		}()
		a, err := b.client.Assignment(asking, b.after)
		cancel()
		if !<-pressed {
			return a, err
		}
		if b.givenUp {
			b.after, b.givenUp = 0, false
		}
	}
}

// wanted tells whether there is something to do.
func (b *boot) wanted(a api.Assignment) bool {
	return a.Action != api.ActionWait && !(b.stay && a.Action == api.ActionBoot)
}

func describe(a api.Assignment) string {
	switch a.Action {
	case api.ActionInstall:
		return fmt.Sprintf("install %s on disk %s, then %s", a.Ref, a.Disk, a.Then)
	case api.ActionBoot:
		return fmt.Sprintf("boot from disk %s by %s", a.Disk, a.Then)
	case api.ActionCapture:
		return fmt.Sprintf("capture disk %s, then %s", a.Disk, a.Then)
	}
	return string(a.Action)
}

// carryOut does what an assignment says.
func (b *boot) carryOut(ctx context.Context, a api.Assignment) error {
	switch a.Action {
	case api.ActionInstall:
		return b.install(ctx, a)
	case api.ActionBoot:
		return b.start(ctx, a)
	case api.ActionCapture:
		return b.capture(ctx, a)
	case api.ActionShell:
		return b.maintain(ctx)
	}
	return fmt.Errorf("the server asks for %q, which this appliance does not know", a.Action)
}

// install puts the image on the disk and goes on as the assignment says.
func (b *boot) install(ctx context.Context, a api.Assignment) error {
	if _, err := api.ParseThen(string(a.Then)); err != nil {
		return err // before anything is written
	}
	var target api.Disk
	var result api.Result
	before, after := b.personalising(a, &target)
	// Without end: a server that does not know it would image the disk again at the next start.
	report := []steps.Step{{Name: "report", Silence: time.Minute, Do: b.report(api.EventInstalled, func() (float64, any) { return result.Seconds, result })}}
	if b.client == nil {
		report = nil
	}
	var confirm, firmware []steps.Step
	if a.Confirm {
		confirm = []steps.Step{{Name: "confirm", Silence: confirmSilence, Tries: 1, Do: b.confirm(&a, &target)}}
	}
	if b.inventory.Firmware == "uefi" {
		firmware = []steps.Step{{Name: "firmware", Silence: time.Minute, Tries: 1, Do: b.firmware(&target)}}
	}
	for _, s := range slices.Concat(before, []steps.Step{
		{Name: "target", Silence: time.Minute, Tries: 1, Do: b.target(a.Disk, &target)},
	}, confirm, []steps.Step{
		{Name: "receive", Silence: 10 * time.Minute, Tries: 5, Do: b.receive(a, &target, &result)},
		{Name: "partitions", Silence: time.Minute, Tries: 5, Do: func(context.Context, func()) (string, error) {
			return "", b.m.Reread(target.Path)
		}},
	}, after, firmware, report) {
		if err := b.run.Run(ctx, s); err != nil {
			return err
		}
	}
	return b.goOn(ctx, a.Then, target.Path)
}

// goOn does what comes after an installation, or a capture.
func (b *boot) goOn(ctx context.Context, then api.Then, disk string) error {
	switch then {
	case api.ThenKexec:
		err := b.kexec(ctx, disk)
		if errors.Is(err, errLeft) || ctx.Err() != nil {
			return err
		}
		b.log.Warn("kexec is not possible, restarting the machine into its disk", "err", err)
		return b.restart(ctx, disk)
	case api.ThenReboot:
		return b.restart(ctx, disk)
	case api.ThenPoweroff:
		return b.leave(ctx, "poweroff", b.m.PowerOff)
	}
	b.stay = true
	return nil
}

// maintain does nothing, until the server says something else.
func (b *boot) maintain(ctx context.Context) error {
	return b.run.Run(ctx, steps.Step{Name: "maintenance", Silence: api.LongPoll + time.Minute, MaxWait: 10 * time.Second, Do: func(ctx context.Context, alive func()) (string, error) {
		b.print("in maintenance: nothing is written; bootserver maintain %s --end ends it", b.client.Node())
		b.offer()
		for {
			alive()
			a, err := b.client.Assignment(ctx, b.after)
			if err != nil {
				return "", err
			}
			if a.Serial != b.after {
				return "ended", nil
			}
			if err := steps.Sleep(ctx, time.Second); err != nil { // a server that does not hold requests
				return "", err
			}
		}
	}})
}

// giveUp says why an assignment was not carried out; another one is waited for.
func (b *boot) giveUp(err error) {
	b.print("GIVEN UP: %v", err)
	b.print("r tries again, another assignment does something else (bootserver assign %s …)", b.client.Node())
	b.givenUp = true
	b.run.Event(api.Event{Type: api.EventLog, Message: "given up, waiting for another assignment", Error: err.Error()})
	b.offer()
}

// permanentError tells whether trying to receive again is useless: the install
// was refused, or the server has had its last word on what it holds.
func permanentError(err error) bool {
	var refused *install.Refused
	var damaged *image.ChunkError
	return errors.As(err, &refused) || errors.As(err, &damaged) || server.Permanent(err)
}
