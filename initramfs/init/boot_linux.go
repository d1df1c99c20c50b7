package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"huck/imager/api"
	"huck/initramfs/cmdline"
	"huck/initramfs/console"
	"huck/initramfs/network"
	"huck/initramfs/rescue"
	"huck/initramfs/server"
	"huck/initramfs/steps"
)

// bootMachine is process 1's child: it puts together what the story needs and
// tells it. It returns only if the boot cannot go on at all. With report it
// tells the server of the crashes before and restarts the machine.
func bootMachine(ctx context.Context, report bool) int {
	limitMemory()
	line, err := os.ReadFile("/proc/cmdline")
	opts, bad := cmdline.Parse(string(line))
	if err != nil {
		bad = err
	}
	quietKernel(opts.Debug)
	con := console.Open("/sys/class/tty/console/active", "/dev", os.Stderr)
	con.Printf("%s the Huck appliance", steps.Uptime())
	plain := slog.New(&console.Handler{Print: con.Printf})
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		con.Printf("%v", err)
	}
	events := server.NewQueue(strings.TrimSpace(string(bootID)), plain)
	log := slog.New(&console.Handler{Print: con.Printf, Event: events.Add})
	crashed := lastWords(events)

	hint := sync.OnceFunc(func() { con.Logf("keys: s or Enter opens a shell, r tries again, b reboots, p powers off") })
	again := make(chan struct{}, 1)
	runner := &steps.Runner{Print: con.Printf, Failed: func(string, error) { hint() }, Again: again,
		Event: func(e api.Event) { con.Event(e); events.Add(e) }}
	stopWatchdog, err := startWatchdog(runner.Overdue, func() { stuck(ctx, runner.Present(), con, events) })
	if err != nil && !os.IsNotExist(err) {
		log.Warn("no watchdog", "err", err)
	}
	if opts.Shell && !crashed { // somebody asked for it once, not for a stop after every crash
		con.Printf("huck.shell: the boot goes on when the shell ends")
		con.Shell(ctx, con.Main(), rescue.OnTTY)
	}
	con.Offer(console.Actions{
		Shell: rescue.OnTTY,
		Retry: func() {
			select {
			case again <- struct{}{}:
			default:
			}
		},
		Reboot:   func() { pressed(events, con, "reboot", unix.LINUX_REBOOT_CMD_RESTART) },
		PowerOff: func() { pressed(events, con, "poweroff", unix.LINUX_REBOOT_CMD_POWER_OFF) },
	})
	nets := network.New(network.Config{BootIF: opts.BootIF, Network: opts.Network, ResolvConf: "/etc/resolv.conf", Log: log})
	go nets.Run(ctx) // until the machine is left

	b := &boot{
		opts: opts, bad: bad, net: nets, discover: network.Discover,
		m:     &thisMachine{log: log, medium: opts.Medium, last: func() { stopWatchdog(); con.Close() }},
		print: con.Printf, tick: con.Logf, again: again, offer: hint, ask: con.Ask, log: log, run: runner, events: events, patience: diskPatience,
		mediumPatience: mediumPatience,
		reportOnly:     report,
	}
	if err := b.tell(ctx); err != nil {
		con.Printf("the boot cannot go on: %v", err)
	}
	con.Close()
	return 1
}

// pressed leaves the machine as somebody in front of it wants: the server hears
// of it if it can, within a moment.
func pressed(events *server.Queue, con *console.Console, what string, cmd int) {
	con.Printf("%s leaving: %s, as asked for at the console", steps.Uptime(), what)
	events.Add(api.Event{Type: api.EventLog, Message: what + ", as asked for at the console"})
	flush, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := events.Flush(flush); err != nil {
		con.Printf("last events: %v", err)
	}
	unix.Sync()
	if err := power(cmd); err != nil {
		con.Printf("%v", err)
	}
}

// lastWords reports what a boot before this one, of the same start, left when
// it crashed, and has this one leave the same. It tells whether there was one.
func lastWords(events *server.Queue) (crashed bool) {
	if err := events.Spool(spoolFile); err != nil {
		events.Add(api.Event{Type: api.EventLog, Message: "events are not kept over a crash", Error: err.Error()})
	}
	if b, err := os.ReadFile(crashFile); err == nil && len(b) > 0 {
		crashed = true
		events.Add(api.Event{Type: api.EventLog, Message: "the appliance crashed and was started anew", Error: string(b[:min(len(b), 6<<10)])})
	}
	f, err := os.Create(crashFile)
	if err != nil {
		return crashed // then the next one stands on the console only
	}
	defer f.Close() // SetCrashOutput duplicates it
	_ = debug.SetCrashOutput(f, debug.CrashOptions{})
	return crashed
}

// stuck ends a boot whose step neither went on nor ended when it was cancelled:
// two of them must not write to one disk, so there is no other try but from the
// start. Nothing is synced, for that could be what is stuck.
func stuck(ctx context.Context, step string, con *console.Console, events *server.Queue) {
	con.Printf("STUCK: step %s does not end, restarting the machine", step)
	events.Add(api.Event{Type: api.EventStep, Step: step, State: api.StepFailed, Error: "stuck: it did not end when it was cancelled; the machine is restarted", Message: api.GivenUp})
	flush, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := events.Flush(flush); err != nil {
		con.Printf("last events: %v", err)
	}
	if err := power(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		con.Printf("%v", err) // the hardware's watchdog, which hears no more, is what is left
	}
}

// limitMemory keeps the Go heap below half of what is free: the rest is for
// the page cache, the kernel, and the system that kexec loads.
func limitMemory() {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return
	}
	free := int64(info.Freeram) * int64(info.Unit)
	debug.SetMemoryLimit(max(free/2, 48<<20))
}

// quietKernel leaves the console to us: errors of the kernel still show
// (Documentation/core-api/printk-basics.rst).
func quietKernel(debugging bool) {
	if !debugging {
		_ = os.WriteFile("/proc/sys/kernel/printk", []byte("4"), 0)
	}
}
