package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"huck/bootserver/config"
	"huck/bootserver/nettest"
)

// parsed reads the command line `serve` with a file of that content.
func parsed(t *testing.T, content string, args ...string) (cli, *config.File, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "huck.conf")
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	var c cli
	file := new(config.File)
	parser, err := kong.New(&c, kong.Bind(file))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"serve", "--config", name}, args...))
	return c, file, err
}

// TestReferenceConf: the manual is a valid file, and names every flag; and what
// it shows as defaults are values that the flags take.
func TestReferenceConf(t *testing.T) {
	b, err := os.ReadFile("reference.conf")
	if err != nil {
		t.Fatal(err)
	}
	c, file, err := parsed(t, string(b))
	if err != nil {
		t.Fatal(err)
	}
	s := c.Serve
	if s.Interface != "eth1" || s.Data != "/srv/huck" || s.DHCP != "authoritative" || s.HTTP != ":8480" {
		t.Errorf("flags %+v", s)
	}
	if got := fmt.Sprint(file.Subnets); got != "[{10.0.0.0/24 [10.0.0.50-10.0.0.99 10.0.0.150-10.0.0.250] 10.0.0.254 [10.0.0.53 10.0.1.53] 0s} {10.1.0.0/16 [10.1.0.100-10.1.3.255] 10.1.0.1 [] 1h0m0s}]" {
		t.Errorf("subnets %s", got)
	}
	if got := fmt.Sprint(file.Reservations); got != "[{52:54:00:12:34:56 10.0.0.10} {52:54:00:12:34:57 10.0.0.11}]" {
		t.Errorf("reservations %s", got)
	}
	// Each default that is shown is one that parses.
	all := regexp.MustCompile(`(?m)^# ([a-z-]+ = .*)$`).ReplaceAllString(string(b), "$1")
	top, tables, _ := strings.Cut(all, "[[subnet]]")
	if _, _, err := parsed(t, top+"[[subnet]]"+tables); err != nil {
		t.Errorf("with the comments taken away: %v", err)
	}
	parser, err := kong.New(new(cli), kong.Bind(new(config.File)))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range parser.Model.Children {
		for _, flag := range command.Flags {
			if command.Name == "serve" && flag.Name != "config" && !regexp.MustCompile(`(?m)^(# )?`+flag.Name+` = `).MatchString(string(b)) {
				t.Errorf("reference.conf says nothing of %s", flag.Name)
			}
		}
	}
}

// TestFlagsWin: what stands on the command line counts, then the file, then the
// default.
func TestFlagsWin(t *testing.T) {
	c, _, err := parsed(t, `
interface = "a"
data = "d"
floor = 0.5
polite = true
dns = ["1.1.1.1", "2.2.2.2"]
ttl = 7
probe = false
jumbo = false
`, "--interface", "b", "--ttl", "9")
	if s := c.Serve; err != nil || s.Interface != "b" || s.Data != "d" || s.Floor != 0.5 || !s.Polite || fmt.Sprint(s.DNS) != "[1.1.1.1 2.2.2.2]" || s.TTL != 9 || s.Probe || s.Jumbo || s.HTTP != ":8480" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestConfigErrors: each names file, line and key.
func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"syntax":             {"data = \"x\"\ninterface = ", "huck.conf:2"},
		"key":                {"data = \"x\"\n\nintreface = \"a\"", "huck.conf:3: intreface: there is no such key"},
		"itself":             {"config = \"x\"", "huck.conf:1: config: there is no such key"},
		"another command's":  {"server = \"x\"", "huck.conf:1: server: there is no such key"},
		"twice":              {"data = \"x\"\ndata = \"y\"", "data"},
		"type":               {"data = \"x\"\nttl = \"many\"", "huck.conf:2: ttl: "},
		"neither yes nor no": {"data = \"x\"\npolite = 3", "huck.conf:2: polite: "},
		"a table for a flag": {"[data]\nx = 1", "huck.conf:2: data.x: there is no such key"},
		"key of a subnet":    {"[[subnet]]\nprefix = \"10.0.0.0/24\"\nrooter = \"10.0.0.1\"", "huck.conf:3: subnet[0].rooter: there is no such key"},
		"no prefix":          {"data = \"x\"\n[[subnet]]\npools = []", "huck.conf:2: subnet[0]: prefix is missing"},
		"prefix":             {"[[subnet]]\nprefix = \"10.0.0.0/99\"", "huck.conf:2: subnet[0].prefix: "},
		"pool":               {"[[subnet]]\nprefix = \"10.0.0.0/24\"\npools = [\n\"10.0.0.9\"]", "huck.conf:4: subnet[0].pools: "},
		"pool elsewhere":     {"[[subnet]]\nprefix = \"10.0.0.0/24\"\n[[subnet]]\nprefix = \"10.1.0.0/24\"\npools = [\"10.0.0.5-10.0.0.9\"]", "huck.conf:3: subnet[1]: subnet 10.1.0.0/24: pool 10.0.0.5-10.0.0.9 is not in it"},
		"router elsewhere":   {"[[subnet]]\nprefix = \"10.0.0.0/24\"\nrouter = \"10.1.0.1\"", "huck.conf:1: subnet[0]: subnet 10.0.0.0/24: router 10.1.0.1 is not in it"},
		"overlap":            {"[[subnet]]\nprefix = \"10.0.0.0/24\"\n[[subnet]]\nprefix = \"10.0.0.0/8\"", "huck.conf:3: subnet[1]: the subnets"},
		"lease time":         {"[[subnet]]\nprefix = \"10.0.0.0/24\"\nlease-time = \"soon\"", "huck.conf:3: subnet[0].lease-time: "},
		"no lease time":      {"[[subnet]]\nprefix = \"10.0.0.0/24\"\nlease-time = \"0s\"", "huck.conf:3: subnet[0].lease-time: "},
		"MAC":                {"[[reservation]]\naddress = \"10.0.0.1\"\nmac = \"52:54\"", "huck.conf:3: reservation[0].mac: "},
		"half a reservation": {"[[reservation]]\naddress = \"10.0.0.1\"", "huck.conf:1: reservation[0]: mac and address"},
		"inline":             {"subnet = [{prefix = \"10.0.0.0/24\"}]", "huck.conf:1: subnet: want text"},
		"dotted":             {"subnet.prefix = 1", "huck.conf"},
		"large":              {strings.Repeat("# \n", 1<<20), "larger than"},
	} {
		_, _, err := parsed(t, c.content, "--interface", "a", "--data", "d")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, _, code := command(t, "serve", "--config", "/none"); code != exitUsage {
		t.Errorf("no file: exit %d", code)
	}
	// What only the whole tells is blamed on the file, too.
	name := filepath.Join(t.TempDir(), "huck.conf")
	if err := os.WriteFile(name, []byte("data = \"x\"\ninterface = \"nowhere\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := command(t, "serve", "--config", name); code != exitUsage || !strings.Contains(stderr, name+":2: --interface nowhere") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// TestSubnetsOnTheWire: two subnets from a file, one behind dnsmasq's relay,
// whose machines get their own router, and the boot script by HTTP over it.
func TestSubnetsOnTheWire(t *testing.T) {
	for _, tool := range []string{"udhcpc", "curl", "dnsmasq"} {
		nettest.Tool(t, tool)
	}
	if !nettest.Isolate(t) {
		return
	}
	nettest.Veth(t, "10.0.0.1/24") // "client" becomes the router between the two
	nettest.Run(t, "ip -n client addr add 10.0.0.254/24 dev cli")
	nettest.Run(t, "ip netns add far")
	nettest.Run(t, "ip -n client link add lan type veth peer name net netns far")
	nettest.Run(t, "ip -n client addr add 10.1.0.1/16 dev lan")
	nettest.Run(t, "ip -n client link set lan up")
	nettest.Run(t, "ip -n far link set net up")
	nettest.Run(t, "ip netns exec client sysctl -qw net.ipv4.ip_forward=1")
	nettest.Run(t, "ip route add 10.1.0.0/16 via 10.0.0.254")
	stop := nettest.Start(t, "ip netns exec client dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --pid-file= --log-facility=- --interface=lan --dhcp-relay=10.1.0.1,10.0.0.1", "DHCP relay")
	defer stop()

	file := filepath.Join(t.TempDir(), "huck.conf")
	content := fmt.Sprintf(`
interface = "srv"
data = %q
netboot = %q
dhcp = "authoritative"
pool = "10.0.0.50-10.0.0.60"
[[subnet]]
prefix = "10.1.0.0/16"
pools = ["10.1.7.1-10.1.7.9"]
router = "10.1.0.1"
[[reservation]]
mac = "02:00:00:00:00:77"
address = "10.1.0.77"
`, t.TempDir(), netboot(t))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	srv := start(t, "--config", file)
	far := func(mac string) string {
		nettest.Run(t, "ip -n far link set net address "+mac)
		script := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && ip addr replace $ip/$mask dev $interface && ip route replace default via $router && echo got=$ip,$mask,$router,$serverid,$boot_file,\nexit 0\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		out := nettest.Run(t, "ip netns exec far udhcpc -i net -f -q -n -t 15 -T 1 -V PXEClient:Arch:00007:UNDI:003016 -x 0x5d:0007 -s "+script)
		_, got, _ := strings.Cut(out, "got=")
		got, _, _ = strings.Cut(got, "\n")
		return got
	}
	if got := far("02:00:00:00:00:01"); got != "10.1.7.1,16,10.1.0.1,10.0.0.1,huck.efi," {
		t.Errorf("behind the relay: %q\n%s", got, srv.log)
	}
	if out := nettest.Run(t, "ip netns exec far curl -sS "+srv.url+"/boot/ipxe"); !strings.Contains(out, "kernel "+srv.url) {
		t.Errorf("the script: %s", out)
	}
	nettest.Run(t, "ip -n far addr flush dev net")
	if got := far("02:00:00:00:00:77"); got != "10.1.0.77,16,10.1.0.1,10.0.0.1,huck.efi," {
		t.Errorf("reserved: %q", got)
	}
	if got := lease(t, "ip"); got != "10.0.0.50" {
		t.Errorf("on our own subnet: %q", got)
	}
	srv.ends(t)
}
