package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

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
// tells it. It returns only if the boot cannot go on at all.
func bootMachine(ctx context.Context) int {
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

	offer := func() {
		if !con.Offered() {
			con.Printf("press Enter for a shell")
			con.Offer(ctx, rescue.OnTTY)
		}
	}
	runner := &steps.Runner{Print: con.Printf, Event: events.Add, Failed: func(string, error) { offer() }}
	stopWatchdog, err := startWatchdog(runner.Overdue)
	if err != nil && !os.IsNotExist(err) {
		log.Warn("no watchdog", "err", err)
	}
	if opts.Shell && !crashed { // somebody asked for it once, not for a stop after every crash
		con.Printf("huck.shell: the boot goes on when the shell ends")
		con.Shell(ctx, con.Main(), rescue.OnTTY)
	}
	nets := network.New(network.Config{BootIF: opts.BootIF, ResolvConf: "/etc/resolv.conf", Log: log})
	go nets.Run(ctx) // until the machine is left

	b := &boot{
		opts: opts, bad: bad, net: nets,
		m:     &thisMachine{log: log, last: func() { stopWatchdog(); con.Close() }},
		print: con.Printf, offer: offer, log: log, run: runner, events: events, patience: diskPatience,
	}
	if err := b.tell(ctx); err != nil {
		con.Printf("the boot cannot go on: %v", err)
	}
	con.Close()
	return 1
}

// lastWords reports what a boot before this one, of the same start, left when
// it crashed, and has this one leave the same. It tells whether there was one.
func lastWords(events *server.Queue) (crashed bool) {
	if b, err := os.ReadFile(crashFile); err == nil && len(b) > 0 {
		crashed = true
		events.Add(api.Event{Type: api.EventLog, Message: "the appliance crashed and was started anew", Error: string(b[:min(len(b), 4<<10)])})
	}
	f, err := os.Create(crashFile)
	if err != nil {
		return crashed // then the next one stands on the console only
	}
	defer f.Close() // SetCrashOutput duplicates it
	_ = debug.SetCrashOutput(f, debug.CrashOptions{})
	return crashed
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
