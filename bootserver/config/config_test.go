package config_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"huck/bootserver/config"
	"huck/bootserver/dhcp"
)

// FuzzParse: no text makes the parser fail other than by an error that names
// the file, and what it takes the DHCP server can use.
func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("../reference.conf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("[[subnet]]\nprefix=\"10.0.0.0/24\"\n[subnet.x]\na.b=1")
	f.Add("a = [[1, {b=2}]]\n\"q\\\"\" = 1979-05-27")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse(strings.NewReader(text), "name")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "name:") {
				t.Errorf("error %q", err)
			}
			return
		}
		if err := dhcp.CheckSubnets(c.Subnets); err != nil {
			t.Errorf("taken, though %v", err)
		}
		for _, r := range c.Reservations {
			if _, err := net.ParseMAC(r.MAC); err != nil || !r.Addr.IsValid() {
				t.Errorf("taken: the reservation %+v, %v", r, err)
			}
		}
	})
}
