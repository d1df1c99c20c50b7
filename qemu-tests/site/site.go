package site

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"huck/imager/api"
	"huck/qemu-tests/lab"
	"huck/qemu-tests/proc"
	"huck/qemu-tests/vm"
)

// listen is where the boot server answers: its default, in a network
// namespace of its own.
const listen = ":8480"

// Site is a private network with a boot server and machines.
type Site struct {
	Programs Programs
	Network  *lab.Network
	// DHCP is what the boot server does of it, if not authoritative.
	DHCP   string
	Events *Events

	log      *slog.Logger
	work     string // disks, the server's data
	logs     string
	machines []*vm.Machine
	server   *proc.Proc
	servers  []*proc.Proc // all that were started, for their logs
	follow   *proc.Proc
}

// New makes a site without a running server. Disks and images stand in work,
// consoles and logs in logs; both exist and stay. Whoever makes a site closes it.
func New(ctx context.Context, p Programs, work, logs string, log *slog.Logger) (*Site, error) {
	network, err := lab.New(ctx)
	if err != nil {
		return nil, err
	}
	return &Site{Programs: p, Network: network, Events: newEvents(), log: log, work: work, logs: logs}, nil
}

// Close switches everything off and removes the network.
func (s *Site) Close() error {
	for _, m := range s.machines {
		m.Cut()
	}
	var err error
	if s.server != nil {
		err = s.StopServer()
	}
	state := s.Network.State(context.Background())
	return errors.Join(err, os.WriteFile(filepath.Join(s.logs, "network.txt"), state, 0o644), s.Network.Close())
}

// Path names a file in the site's work folder.
func (s *Site) Path(name string) string { return filepath.Join(s.work, name) }

// Store is the boot server's image store.
func (s *Site) Store() string { return filepath.Join(s.work, "data", "images") }

// Captured is how `imager capture --json` ends.
type Captured struct {
	Ref          string  `json:"ref"`
	Digest       string  `json:"digest"` // with the leading @
	ImageBytes   int64   `json:"image_bytes"`
	EncodedBytes int64   `json:"encoded_bytes"`
	Seconds      float64 `json:"seconds"`
}

// Capture captures a disk into the site's store.
func (s *Site) Capture(ctx context.Context, disk, name string) (Captured, error) {
	var c Captured
	out, err := s.Imager(ctx, "capture", disk, "--store", s.Store(), "--name", name)
	if err == nil {
		err = json.Unmarshal(lastLine(out), &c)
	}
	if err != nil {
		return c, fmt.Errorf("site: capture: %w", err)
	}
	return c, nil
}

// Imager runs the imager with --json and returns its standard output.
func (s *Site) Imager(ctx context.Context, args ...string) ([]byte, error) {
	return proc.Run(ctx, proc.Command{Netns: s.Network.Netns, Args: append([]string{s.Programs.Imager, "--json", "--quiet"}, args...)})
}

// Bootserver runs a command of the boot server other than serve with --json
// and returns its standard output.
func (s *Site) Bootserver(ctx context.Context, args ...string) ([]byte, error) {
	return proc.Run(ctx, proc.Command{Netns: s.Network.Netns, Args: append([]string{s.Programs.Bootserver}, append(args, "--json")...)})
}

// StartServer starts the boot server, holding its channels to rate (as
// --rate), and waits until it is ready.
func (s *Site) StartServer(ctx context.Context, rate string) error {
	if err := os.MkdirAll(s.Path("data"), 0o755); err != nil {
		return fmt.Errorf("site: %v", err)
	}
	number := len(s.servers) + 1
	logFile := func(kind string) string {
		return filepath.Join(s.logs, fmt.Sprintf("bootserver-%d.%s", number, kind))
	}
	server, err := proc.Start(proc.Command{
		Netns: s.Network.Netns, Log: logFile("out"), LogErr: logFile("log"),
		Args: []string{s.Programs.Bootserver, "serve", "--interface", lab.Interface, "--data", s.Path("data"),
			"--dhcp", cmp.Or(s.DHCP, "authoritative"), "--pool", lab.Pool, "--http", listen, "--netboot", s.Programs.Netboot, "--append", vm.KernelArgs, "--rate", rate, "--json",
			// Emulated machines on two cores stall one another; none of them is to be left behind for that.
			"--floor", "0"},
	})
	if err != nil {
		return fmt.Errorf("site: boot server: %w", err)
	}
	s.server, s.servers = server, append(s.servers, server)
	if _, _, err := server.Stdout.Wait(ctx, readyLine, 0); err != nil {
		return fmt.Errorf("site: boot server: %w; its log ends:\n%s", err, server.Stderr)
	}
	s.follow, err = proc.Start(proc.Command{
		Netns: s.Network.Netns, Log: logFile("events"), LogErr: logFile("follow"),
		Args: []string{s.Programs.Bootserver, "events", "--follow", "--json"},
	})
	if err != nil {
		return fmt.Errorf("site: follow events: %w", err)
	}
	s.Events.read(s.follow)
	return nil
}

// StopServer ends the boot server as an administrator would.
func (s *Site) StopServer() error {
	err := s.server.Stop(20 * time.Second)
	s.endServer()
	if err != nil {
		return fmt.Errorf("site: boot server ended badly: %w; its log ends:\n%s", err, s.server.Stderr)
	}
	return nil
}

// KillServer ends the boot server as a crash would (SIGKILL).
func (s *Site) KillServer() {
	s.server.Kill()
	s.endServer()
}

func (s *Site) endServer() {
	s.follow.Kill()
	s.Events.wait()
	s.server = nil
}

// ServerSays waits until the boot server that was started last has logged
// something that matches pattern.
func (s *Site) ServerSays(ctx context.Context, pattern string) error {
	server := s.servers[len(s.servers)-1]
	if _, _, err := server.Stderr.Wait(ctx, regexp.MustCompile(pattern), 0); err != nil {
		return fmt.Errorf("site: boot server: %w", err)
	}
	return nil
}

// BootFileBytes returns the size of all kernels and initramfs that the boot
// server has logged to have served.
func (s *Site) BootFileBytes() (sum int64, err error) {
	for _, server := range s.servers {
		for _, line := range lines([]byte(server.Stderr.String())) {
			var record struct {
				Msg, Err string
				Bytes    int64
			}
			if json.Unmarshal(line, &record) == nil && record.Msg == "web: boot file" && record.Err == "" {
				sum += record.Bytes
			}
		}
	}
	if sum == 0 {
		return 0, errors.New("site: the boot server has logged no boot file")
	}
	return sum, nil
}

// AddMachine plugs a new machine into the network; it is off. Its disk is a
// new file of size bytes.
func (s *Site) AddMachine(ctx context.Context, name string, size int64, memory int) (*vm.Machine, error) {
	disk, err := s.Disk(name, size)
	if err != nil {
		return nil, err
	}
	return s.Plug(ctx, vm.Config{Name: name, Network: s.Network, Disks: []string{disk}, Memory: memory})
}

// Disk makes an empty disk of size bytes.
func (s *Site) Disk(name string, size int64) (string, error) {
	disk := s.Path(name + ".raw")
	f, err := os.Create(disk)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("site: make disk: %v", err)
	}
	return disk, nil
}

// Plug adds a machine as it is given, but for the folder of its logs. One that
// is to be on the site's network says so. It is off.
func (s *Site) Plug(ctx context.Context, cfg vm.Config) (*vm.Machine, error) {
	cfg.LogDir = s.logs
	m, err := vm.New(ctx, len(s.machines)+1, cfg)
	if err != nil {
		return nil, err
	}
	s.machines = append(s.machines, m)
	return m, nil
}

// Nodes lists what the boot server knows.
func (s *Site) Nodes(ctx context.Context) ([]api.Node, error) {
	out, err := s.Bootserver(ctx, "nodes")
	if err != nil {
		return nil, err
	}
	var nodes []api.Node
	for line := range slices.Values(lines(out)) {
		var n api.Node
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, fmt.Errorf("site: read nodes: %v", err)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}
