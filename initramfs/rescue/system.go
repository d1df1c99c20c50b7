package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"huck/imager/disk"
)

func disks(_ context.Context, s IO, _ []string) error {
	list, err := disk.List()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tBYTES\tSECTOR\tBUS\tMODEL\tSERIAL\tWWN\tFLAGS")
	for _, d := range list {
		var flags []string
		for _, f := range []struct {
			set  bool
			name string
		}{{d.Removable, "removable"}, {d.ReadOnly, "read-only"}, {d.Boot, "boot"}, {d.Rotational, "rotational"}} {
			if f.set {
				flags = append(flags, f.name)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", d.Path, d.Size, d.SectorSize, d.Transport, d.Model, d.Serial, d.WWN, strings.Join(flags, ","))
	}
	return w.Flush()
}

func dmesg(_ context.Context, s IO, _ []string) error {
	const readAll, size = 3, 10 // SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_SIZE_BUFFER
	n, err := unix.Klogctl(size, nil)
	if err != nil {
		return err
	}
	buf := make([]byte, n)
	if n, err = unix.Klogctl(readAll, buf); err != nil {
		return err
	}
	_, err = s.Out.Write(buf[:n])
	return err
}

// print copies a file of proc.
func print(s IO, name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	_, err = s.Out.Write(b)
	return err
}

func free(_ context.Context, s IO, _ []string) error { return print(s, "/proc/meminfo") }

func uname(_ context.Context, s IO, _ []string) error { return print(s, "/proc/version") }

func df(_ context.Context, s IO, _ []string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tTYPE\tBYTES\tFREE\tFOLDER")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		var st unix.Statfs_t
		if len(f) < 3 || unix.Statfs(f[1], &st) != nil || st.Blocks == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", f[0], f[2], int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize, f[1])
	}
	return w.Flush()
}

func ps(_ context.Context, s IO, _ []string) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PID\tSTATE\tRSS\tCOMMAND")
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue // gone, or a thread of the kernel
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		field := func(key string) string {
			for line := range strings.Lines(string(status)) {
				if v, ok := strings.CutPrefix(line, key+":"); ok {
					return strings.TrimSpace(v)
				}
			}
			return ""
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", filepath.Base(dir), field("State"), field("VmRSS"), strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " "))
	}
	return w.Flush()
}

func kill(_ context.Context, _ IO, args []string) error {
	sig := 15
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		n, err := strconv.Atoi(args[0][1:])
		if err != nil {
			return usageError{}
		}
		sig, args = n, args[1:]
	}
	if len(args) == 0 {
		return usageError{}
	}
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			return usageError{}
		}
		if err := unix.Kill(pid, syscall.Signal(sig)); err != nil {
			return fmt.Errorf("%d: %w", pid, err)
		}
	}
	return nil
}

// mountFlags are the options that are flags to mount(2); the others are data.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV,
	"remount": unix.MS_REMOUNT, "bind": unix.MS_BIND, "noatime": unix.MS_NOATIME, "sync": unix.MS_SYNCHRONOUS,
}

func mount(_ context.Context, s IO, args []string) error {
	if len(args) == 0 {
		return print(s, "/proc/self/mounts")
	}
	opt, rest, err := options(args, "", "to")
	if err != nil || len(rest) != 2 {
		return usageError{}
	}
	var flags uintptr
	var data []string
	for _, o := range strings.Split(opt['o'], ",") {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else if o != "" {
			data = append(data, o)
		}
	}
	kinds := []string{opt['t']}
	if opt['t'] == "" && flags&(unix.MS_BIND|unix.MS_REMOUNT) == 0 {
		kinds = []string{"ext4", "xfs", "btrfs", "vfat", "iso9660"}
	}
	var errs []error
	for _, kind := range kinds {
		err := unix.Mount(rest[0], rest[1], kind, flags, strings.Join(data, ","))
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", kind, err))
	}
	return errors.Join(errs...)
}

func umount(_ context.Context, _ IO, args []string) error {
	opt, rest, err := options(args, "l", "")
	if err != nil || len(rest) != 1 {
		return usageError{}
	}
	flags := 0
	if opt['l'] != "" {
		flags = unix.MNT_DETACH
	}
	return unix.Unmount(rest[0], flags)
}

func syncDisks(context.Context, IO, []string) error {
	unix.Sync()
	return nil
}

func reboot(context.Context, IO, []string) error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func poweroff(context.Context, IO, []string) error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func wget(ctx context.Context, s IO, args []string) (err error) {
	if len(args) < 1 || len(args) > 2 {
		return usageError{}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", args[0], resp.Status)
	}
	out := s.Out
	if len(args) == 2 {
		f, err := os.Create(args[1])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

func ping(ctx context.Context, s IO, args []string) error {
	opt, rest, err := options(args, "", "c")
	if err != nil || len(rest) != 1 {
		return usageError{}
	}
	count, err := number(opt['c'], 4)
	if err != nil {
		return err
	}
	addr, err := net.ResolveIPAddr("ip", rest[0])
	if err != nil {
		return err
	}
	network, proto, kind, listen := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), "0.0.0.0"
	if addr.IP.To4() == nil {
		network, proto, kind, listen = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, "::"
	}
	conn, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	answered := false
	for seq := range int(count) {
		took, err := echo(conn, addr, proto, kind, seq)
		if err != nil {
			fmt.Fprintf(s.Out, "%s: no answer to %d: %v\n", addr, seq, err)
		} else {
			answered = true
			fmt.Fprintf(s.Out, "%s: answer to %d after %v\n", addr, seq, took.Round(time.Microsecond))
		}
		if seq+1 == int(count) {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !answered {
		return ExitError(1)
	}
	return nil
}

// echo sends one request and waits a second for its answer.
func echo(conn *icmp.PacketConn, addr *net.IPAddr, proto int, kind icmp.Type, seq int) (time.Duration, error) {
	id := os.Getpid() & 0xffff
	msg, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("huck")}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := conn.WriteTo(msg, addr); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(start.Add(time.Second)); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && e.Seq == seq {
			return time.Since(start), nil
		}
	}
}
