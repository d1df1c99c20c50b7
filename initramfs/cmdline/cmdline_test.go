package cmdline_test

import (
	"os"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/initramfs/cmdline"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		server     string
		shell      bool
		noVerify   bool
		bootIF     string
		debug      bool
		err        string
	}{
		{name: "empty"},
		{name: "others' keys", line: "console=tty0 console=ttyS0,115200 panic=30 root=/dev/sda quiet\n"},
		{name: "all", line: "huck.server=http://10.0.0.1:8480 huck.shell huck.noverify BOOTIF=01-52-54-00-12-34-56 debug",
			server: "http://10.0.0.1:8480", shell: true, noVerify: true, bootIF: "52:54:00:12:34:56", debug: true},
		{name: "trailing slash and IPv6", line: "huck.server=http://[fd00::1]:8480/", server: "http://[fd00::1]:8480"},
		{name: "quoted", line: `x="a b" "huck.server=https://boot.example"`, server: "https://boot.example"},
		{name: "last counts", line: "huck.shell huck.shell=0 huck.server=http://a huck.server=http://b", server: "http://b"},
		{name: "iPXE's MAC", line: "BOOTIF=52:54:00:12:34:56", bootIF: "52:54:00:12:34:56"},
		{name: "iPXE's hexhyp MAC", line: "BOOTIF=52-54-00-12-34-56", bootIF: "52:54:00:12:34:56"},
		{name: "MAC that begins with 01", line: "BOOTIF=01-54-00-12-34-56", bootIF: "01:54:00:12:34:56"},
		{name: "server without scheme", line: "huck.shell huck.server=10.0.0.1:8480", shell: true, err: "http(s)://"},
		{name: "server with path", line: "huck.server=http://a/b", err: "http(s)://"},
		{name: "other scheme", line: "huck.server=ftp://a", err: "http(s)://"},
		{name: "typo", line: "huck.sever=http://a", err: "unknown key"},
		{name: "bad flag", line: "huck.noverify=please", err: "0 or 1"},
		{name: "bad MAC", line: "BOOTIF=eth0", err: "want 01-"},
		{name: "long MAC", line: "BOOTIF=01-02-03-04-05-06-07-08", err: "want 01-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := cmdline.Parse(tt.line)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			server := ""
			if o.Server != nil {
				server = o.Server.String()
			}
			if server != tt.server || o.Shell != tt.shell || o.NoVerify != tt.noVerify || o.Debug != tt.debug || o.BootIF.String() != tt.bootIF {
				t.Errorf("got %+v (server %q)", o, server)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`huck.server="http://a:1" BOOTIF=01-52-54-00-12-34-56 huck.shell=0`)
	f.Add("ip=[fd00::5]::[fe80::1]:64::eth0:none:[fd00::53] ip=10.0.0.5:::24 vlan=eth0.5:eth0 huck.vlan=5:eth0 huck.mtu=9000")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := cmdline.Parse(line)
		if err == nil && o.Server != nil {
			again, err := api.ParseServerURL(o.Server.String())
			if err != nil || *again != *o.Server {
				t.Errorf("%v reads back as %v, %v", o.Server, again, err)
			}
		}
	})
}

// TestHelpIsDocumented: BOOTING.md of the boot server has the same text.
func TestHelpIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../bootserver/BOOTING.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "\n```keys\n"+cmdline.Help+"```\n") {
		t.Error("bootserver/BOOTING.md does not have cmdline.Help in a block \"keys\"")
	}
}
