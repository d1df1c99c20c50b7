package personalise_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"huck/imager/personal"
	"huck/initramfs/personalise"
	"huck/initramfs/rootfs"
)

const oldID = "0123456789abcdef0123456789abcdef"

// system makes a tree; names that end in a slash are folders, content that
// begins with "-> " makes a link.
func system(t *testing.T, files map[string]string) personalise.System {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("REQUIRE_TOOLS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	dir := t.TempDir()
	base := map[string]string{
		"etc/hosts":                    "127.0.0.1 localhost\n127.0.1.1 golden.old golden\n10.0.0.1 server\n",
		"etc/hostname":                 "golden\n",
		"etc/machine-id":               oldID + "\n",
		"etc/passwd":                   "root:x:0:0:root:/root:/bin/sh\njane:x:1000:1001::/home/jane:/bin/sh\nbroken\n",
		"etc/group":                    "root:x:0:\nadm:x:4:\n",
		"home/jane/":                   "",
		"etc/ssh/ssh_host_rsa_key":     "old",
		"etc/ssh/ssh_host_rsa_key.pub": "old",
		"etc/ssh/sshd_config":          "kept",
	}
	for name, text := range files {
		base[name] = text
	}
	for name, text := range base {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(target, p)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return personalise.System{FS: rootfs.FS{Root: root}}
}

func apply(t *testing.T, s personalise.System, p *personal.Personality) string {
	t.Helper()
	said, err := personalise.Apply(s, p)
	if err != nil {
		t.Fatal(err)
	}
	left, err := fs.Glob(s.FS, "etc/.huck-*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return said
}

// want checks a file's content, mode and owner.
func want(t *testing.T, s personalise.System, name, text string, mode fs.FileMode, uid, gid uint32) {
	t.Helper()
	b, err := fs.ReadFile(s.FS, name)
	if err != nil || string(b) != text {
		t.Errorf("%s: %q, %v; want %q", name, b, err, text)
		return
	}
	info, err := fs.Stat(s.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode() != mode || st.Uid != uid || st.Gid != gid {
		t.Errorf("%s: %v %d:%d, want %v %d:%d", name, info.Mode(), st.Uid, st.Gid, mode, uid, gid)
	}
}

func gone(t *testing.T, s personalise.System, name string) {
	t.Helper()
	if _, err := s.FS.Root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", name, err)
	}
}

func TestApply(t *testing.T) {
	s := system(t, map[string]string{"var/lib/dbus/machine-id": oldID + "\n"})
	id := strings.Repeat("a", 32)
	said := apply(t, s, &personal.Personality{
		Hostname: "n1.example.org", MachineID: &id, ResetHostKeys: true,
		AuthorizedKeys: map[string][]string{"root": {"k1", "k2"}, "jane": {"k3"}},
		Files: []personal.File{
			{Path: "/etc/ssh/ssh_host_ed25519_key", Content: "new", Mode: "0600"},
			{Path: "/srv/deep/down/file", Content: "x", Mode: "4750", Owner: "jane", Group: "adm"},
			{Path: "/etc/numbers", Content: "y", Owner: "7", Group: "8"},
		},
	})
	t.Log(said)
	want(t, s, "etc/hostname", "n1\n", 0o644, 0, 0)
	want(t, s, "etc/hosts", "127.0.0.1 localhost\n127.0.1.1 n1.example.org n1\n10.0.0.1 server\n", 0o644, 0, 0)
	want(t, s, "etc/machine-id", id+"\n", 0o444, 0, 0)
	want(t, s, "var/lib/dbus/machine-id", id+"\n", 0o444, 0, 0)
	gone(t, s, "etc/ssh/ssh_host_rsa_key")
	gone(t, s, "etc/ssh/ssh_host_rsa_key.pub")
	gone(t, s, "etc/kernel/entry-token")
	gone(t, s, ".autorelabel")
	want(t, s, "etc/ssh/ssh_host_ed25519_key", "new", 0o600, 0, 0)
	want(t, s, "etc/ssh/sshd_config", "kept", 0o644, 0, 0)
	want(t, s, "root/.ssh/authorized_keys", "k1\nk2\n", 0o600, 0, 0)
	want(t, s, "home/jane/.ssh/authorized_keys", "k3\n", 0o600, 1000, 1001)
	if info, err := fs.Stat(s.FS, "home/jane/.ssh"); err != nil || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf(".ssh: %v, %v", info, err)
	}
	want(t, s, "srv/deep/down/file", "x", 0o750|fs.ModeSetuid, 1000, 4)
	want(t, s, "etc/numbers", "y", 0o644, 7, 8)
	for _, word := range []string{"hostname n1", "machine ID aaa", "2 files of SSH host keys removed", "2 keys of root", "3 files"} {
		if !strings.Contains(said, word) {
			t.Errorf("%q does not tell of %q", said, word)
		}
	}
}

func TestNothing(t *testing.T) {
	s := system(t, map[string]string{"etc/selinux/config": "SELINUX=enforcing\n"})
	if said := apply(t, s, &personal.Personality{}); said != "nothing to do" {
		t.Error(said)
	}
	gone(t, s, ".autorelabel")
	want(t, s, "etc/hostname", "golden\n", 0o644, 0, 0)
}

// TestHosts: where the name stands in /etc/hosts.
func TestHosts(t *testing.T) {
	for old, now := range map[string]string{
		"":                                   "127.0.1.1 n\n",
		"127.0.0.1 localhost\n::1 ip6\n":     "127.0.0.1 localhost\n127.0.1.1 n\n::1 ip6\n",
		"# c\n127.0.1.1 a\nx\n127.0.1.1 b\n": "# c\n127.0.1.1 n\nx\n",
		"127.0.0.1 localhost":                "127.0.0.1 localhost\n127.0.1.1 n\n",
	} {
		s := system(t, map[string]string{"etc/hosts": old})
		apply(t, s, &personal.Personality{Hostname: "n"})
		want(t, s, "etc/hosts", now, 0o644, 0, 0)
	}
}

// FuzzSystemFiles: what stands in a system's files may be anything.
func FuzzSystemFiles(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\njane:x:1000:4294967295::/home/jane/..:/bin/sh\n")
	f.Add("127.0.0.1 localhost\n127.0.1.1 a\n\n127.0.1.1")
	f.Fuzz(func(t *testing.T, text string) {
		for name, home := range personalise.ParseUsers(text) {
			if !filepath.IsAbs(home) || filepath.Clean(home) != home {
				t.Errorf("%s of %q lives in %q", name, text, home)
			}
		}
		now := personalise.Hosts(text, "n")
		if strings.Count("\n"+now, "\n127.0.1.1 n\n") != 1 || personalise.Hosts(now, "n") != now {
			t.Errorf("%q becomes %q", text, now)
		}
	})
}

func TestMachineID(t *testing.T) {
	for id, files := range map[string][2]string{ // etc, dbus
		"":              {"", ""},
		"uninitialized": {"uninitialized\n", ""},
	} {
		s := system(t, map[string]string{"var/lib/dbus/machine-id": oldID, "boot/loader/entries/" + oldID + "-6.1.conf": ""})
		apply(t, s, &personal.Personality{MachineID: &id})
		want(t, s, "etc/machine-id", files[0], 0o444, 0, 0)
		want(t, s, "var/lib/dbus/machine-id", files[1], 0o444, 0, 0)
		want(t, s, "etc/kernel/entry-token", oldID+"\n", 0o644, 0, 0)
	}
	// A link follows by itself.
	id := strings.Repeat("b", 32)
	s := system(t, map[string]string{"var/lib/dbus/machine-id": "-> /etc/machine-id"})
	apply(t, s, &personal.Personality{MachineID: &id})
	want(t, s, "var/lib/dbus/machine-id", id+"\n", 0o444, 0, 0)
}

func TestSELinux(t *testing.T) {
	for config, relabels := range map[string]bool{"SELINUX=enforcing\n": true, "# SELINUX=enforcing\nSELINUX=disabled\n": false, "SELINUX=permissive": true} {
		s := system(t, map[string]string{"etc/selinux/config": config})
		apply(t, s, &personal.Personality{Hostname: "n"})
		if _, err := fs.Stat(s.FS, ".autorelabel"); (err == nil) != relabels {
			t.Errorf("%q: %v", config, err)
		}
	}
}

// TestLinksStayInside: the image's links lead where they would lead when the
// system runs, and never outside of it.
func TestLinksStayInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := system(t, map[string]string{
		"etc/hostname": "-> " + outside,                 // absolute: inside the system
		"etc/motd":     "-> ../../../../../../srv/motd", // climbs: to the system's root
		"srv/":         "",
		"data":         "-> /etc",
		"home/jane/":   "",
	})
	apply(t, s, &personal.Personality{Hostname: "n", Files: []personal.File{{Path: "/etc/motd", Content: "m"}, {Path: "/data/x", Content: "d"}}})
	want(t, s, "srv/motd", "m", 0o644, 0, 0)
	want(t, s, "etc/x", "d", 0o644, 0, 0)
	want(t, s, outside[1:], "n\n", 0o644, 0, 0)
	if b, err := os.ReadFile(outside); err != nil || string(b) != "untouched" {
		t.Errorf("outside: %q, %v", b, err)
	}
}

// TestHardLink: a hard link of the image's keeps its own content.
func TestHardLink(t *testing.T) {
	s := system(t, map[string]string{"etc/a": "old"})
	if err := s.FS.Root.Link("etc/a", "etc/b"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, &personal.Personality{Files: []personal.File{{Path: "/etc/a", Content: "new"}}})
	want(t, s, "etc/a", "new", 0o644, 0, 0)
	want(t, s, "etc/b", "old", 0o644, 0, 0)
}

func TestRefused(t *testing.T) {
	s := system(t, map[string]string{"etc/loop": "-> loop", "srv/": ""})
	if err := s.FS.Root.Mkdir("etc/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := s.FS.Root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := syscall.Mkfifo(filepath.Join(dir.Name(), "etc/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Writable = func(p string) error {
		if strings.HasPrefix(p, "/srv/") {
			return errors.New("/srv is another disk")
		}
		return nil
	}
	file := func(path string) *personal.Personality {
		return &personal.Personality{Files: []personal.File{{Path: path}}}
	}
	for says, p := range map[string]*personal.Personality{
		"no user nobody1":  {AuthorizedKeys: map[string][]string{"nobody1": {"k"}}},
		"too many":         file("/etc/loop/x"),
		"/etc/dir is d":    file("/etc/dir"),
		"/etc/fifo is p":   file("/etc/fifo"),
		"another disk":     file("/srv/x"),
		"not a directory":  file("/etc/hosts/x"),
		"no group nothing": {Files: []personal.File{{Path: "/x", Group: "nothing"}}},
	} {
		if _, err := personalise.Apply(s, p); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one with %q", err, says)
		}
	}
}

// TestNetwork: what each renderer is given.
func TestNetwork(t *testing.T) {
	n := []personal.Interface{
		{Name: "lan0", MAC: "52:54:00:00:00:01", DHCP4: true, Addresses: []string{"10.0.0.7/24", "fd00::7/64"}, Gateways: []string{"fd00::1"},
			DNS: []string{"10.0.0.1", "fd00::1"}, Search: []string{"example.org"}, MTU: 9000},
		{Name: "lan1", MAC: "52:54:00:00:00:02"},
	}
	const link = "[Match]\nMACAddress=52:54:00:00:00:01\n\n[Link]\nName=lan0\nMTUBytes=9000\n"
	for _, tt := range []struct {
		has, renderer, file, text string
		mode                      fs.FileMode
	}{
		{"usr/sbin/netplan", "", "etc/netplan/90-huck.yaml", "network:\n  version: 2\n  ethernets:\n" +
			"    huck1:\n      match: {macaddress: \"52:54:00:00:00:01\"}\n      set-name: \"lan0\"\n      mtu: 9000\n      dhcp4: true\n      dhcp6: false\n" +
			"      addresses: [\"10.0.0.7/24\", \"fd00::7/64\"]\n      routes:\n        - {to: \"::/0\", via: \"fd00::1\"}\n" +
			"      nameservers: {addresses: [\"10.0.0.1\", \"fd00::1\"], search: [\"example.org\"]}\n" +
			"    huck2:\n      match: {macaddress: \"52:54:00:00:00:02\"}\n      set-name: \"lan1\"\n      dhcp4: false\n      dhcp6: false\n", 0o600},
		{"etc/systemd/system/multi-user.target.wants/NetworkManager.service", "auto", "etc/NetworkManager/system-connections/huck-1.nmconnection",
			"[connection]\nid=huck-1\ntype=ethernet\nautoconnect-priority=100\n\n[ethernet]\nmac-address=52:54:00:00:00:01\nmtu=9000\n" +
				"\n[ipv4]\nmethod=auto\naddress1=10.0.0.7/24\ndns=10.0.0.1;\ndns-search=example.org;\n" +
				"\n[ipv6]\nmethod=manual\naddress1=fd00::7/64\ngateway=fd00::1\ndns=fd00::1;\ndns-search=example.org;\n", 0o600},
		{"etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "", "etc/systemd/network/05-huck-1.network",
			"[Match]\nMACAddress=52:54:00:00:00:01\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=ipv4\nAddress=10.0.0.7/24\nAddress=fd00::7/64\n" +
				"Gateway=fd00::1\nDNS=10.0.0.1\nDNS=fd00::1\nDomains=example.org\n", 0o644},
		{"sbin/ifup", "", "etc/network/interfaces", "auto lo\niface lo inet loopback\n\nauto lan0\niface lan0 inet dhcp\n  mtu 9000\n" +
			"  dns-nameservers 10.0.0.1 fd00::1\n  dns-search example.org\niface lan0 inet static\n  address 10.0.0.7/24\n" +
			"iface lan0 inet6 static\n  address fd00::7/64\n  gateway fd00::1\n  mtu 9000\n  dns-nameservers 10.0.0.1 fd00::1\n  dns-search example.org\n", 0o644},
	} {
		s := system(t, map[string]string{tt.has: "-> /nowhere"})
		said := apply(t, s, &personal.Personality{Network: &personal.Network{Renderer: tt.renderer, Interfaces: n}})
		t.Log(said)
		want(t, s, tt.file, tt.text, tt.mode, 0, 0)
		want(t, s, "etc/systemd/network/05-huck-1.link", link, 0o644, 0, 0)
		gone(t, s, "etc/systemd/network/05-huck-2.network")
		gone(t, s, "etc/NetworkManager/system-connections/huck-2.nmconnection")
	}
	s := system(t, nil)
	if _, err := personalise.Apply(s, &personal.Personality{Network: &personal.Network{Interfaces: n}}); err == nil || !strings.Contains(err.Error(), "renderer") {
		t.Errorf("without anything installed: %v", err)
	}
	n[0].Name = ""
	if _, err := personalise.Apply(s, &personal.Personality{Network: &personal.Network{Renderer: "ifupdown", Interfaces: n}}); err == nil || !strings.Contains(err.Error(), "needs a name") {
		t.Errorf("ifupdown without a name: %v", err)
	}
}
