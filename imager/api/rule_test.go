package api_test

import (
	"errors"
	"strings"
	"testing"

	"huck/imager/api"
)

func machine() []api.Disk {
	return []api.Disk{
		{Path: "/dev/sda", Size: 500e9, Serial: "S1", WWN: "0x5001", Model: "WDC 500", Transport: "sata"},
		{Path: "/dev/nvme0n1", Size: 1e12, Serial: "N1", Model: "Samsung 980", Transport: "nvme"},
		{Path: "/dev/nvme1n1", Size: 1e12, Serial: "N2", Model: "Samsung 980", Transport: "nvme"},
		{Path: "/dev/sdb", Size: 16e9, Serial: "U1", Model: "Stick", Transport: "usb", Removable: true},
		{Path: "/dev/sdc", Size: 8e9, Serial: "B1", Model: "Boot", Transport: "usb", Boot: true},
	}
}

func TestRuleSelect(t *testing.T) {
	for _, tt := range []struct{ rule, want, err string }{
		{rule: "serial=n2", want: "/dev/nvme1n1"},
		{rule: "wwn=0X5001", want: "/dev/sda"},
		{rule: "smallest", want: "/dev/sda"},
		{rule: "model=Samsung*,serial=N1", want: "/dev/nvme0n1"},
		{rule: "size=..600G", want: "/dev/sda"},
		{rule: "transport=sata,only", want: "/dev/sda"},
		{rule: "only", err: "matches 3"},
		{rule: "largest", err: "matches 2"}, // two of 1 TB: no guess
		{rule: "serial=U1", err: "removable"},
		{rule: "serial=B1", err: "boot medium"},
		{rule: "transport=usb", err: "matches none"},
		{rule: "size=2T..", err: "matches none"},
	} {
		r, err := api.ParseRule(tt.rule)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.Select(machine())
		switch {
		case tt.err == "" && (err != nil || d.Path != tt.want):
			t.Errorf("%s: %v, %v; want %s", tt.rule, d.Path, err, tt.want)
		case tt.err != "" && (!errors.Is(err, api.ErrNoDisk) || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: error %v, want one with %q", tt.rule, err, tt.err)
		}
	}
}

func TestRuleSelectWithoutDisks(t *testing.T) {
	r, err := api.ParseRule("only")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Select(nil); !errors.Is(err, api.ErrNoDisk) || !strings.Contains(err.Error(), "no disks at all") {
		t.Errorf("error %v", err)
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for _, s := range []string{"", "bogus", "serial", "serial=", "only=1", "smallest,largest", "model=[",
		"size=5", "size=..", "size=2T..1T", "size=a..b", "size=-1..2", "size=99999999T..", "transport=floppy", "only,,only"} {
		if _, err := api.ParseRule(s); err == nil {
			t.Errorf("ParseRule(%q) succeeded", s)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "512": 512, "10K": 10e3, "2T": 2e12, "1Gi": 1 << 30, "3Ki": 3072} {
		if n, err := api.ParseSize(s); err != nil || n != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "K", "i", "5i", "1.5G", "5X", "+-1"} {
		if n, err := api.ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("only")
	f.Add("serial=S1,size=10G..2T,model=W*,transport=sata,smallest")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := api.ParseRule(s)
		if err != nil {
			return
		}
		if d, err := r.Select(machine()); err == nil && (d.Removable || d.Boot) {
			t.Errorf("%q chose %s", s, d.Path)
		}
	})
}
