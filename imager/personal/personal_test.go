package personal_test

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"huck/imager/personal"
)

var facts = personal.Facts{
	Node: "52-54-00-00-00-01", MAC: "52:54:00:00:00:01", MACs: []string{"52:54:00:00:00:01"}, Serial: "ABC", Address: "10.0.0.9",
	Group: "lab", Index: 4, Image: "debian:1", Assignment: 3,
}

var secrets = personal.Secrets{
	Derived: strings.Repeat("d", 32), Random: strings.Repeat("e", 32),
	HostKeys: []personal.HostKey{{Type: "ed25519", Private: "private\n", Public: "public\n"}},
}

// parse fails the test on an error.
func parse(t testing.TB, text string) *personal.Document {
	t.Helper()
	d, err := personal.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRender(t *testing.T) {
	d := parse(t, `{
		"hostname": "lab{{printf \"%02d\" (add .Index 1)}}.example.org",
		"machine_id": "derived", "ssh_host_keys": "stored",
		"authorized_keys": {"root": ["ssh-ed25519 AAAA admin@{{.Group}}"]},
		"network": {"interfaces": [{"name": "lan0", "addresses": ["10.1.0.{{add 10 .Index}}/24"], "gateways": ["10.1.0.1"]}]},
		"files": [{"path": "/etc/motd", "content": "{{.Hostname}} {{lower .Serial}} {{.Image}}\n", "mode": "0640", "group": "adm"}],
		"nocloud": {"user_data": "#cloud-config\n"}}`)
	p, err := d.For(facts, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if p.Hostname != "lab05.example.org" || p.Facts.Hostname != "lab05" || *p.MachineID != secrets.Derived || !p.ResetHostKeys {
		t.Errorf("got %+v", p)
	}
	if k := p.AuthorizedKeys["root"]; len(k) != 1 || k[0] != "ssh-ed25519 AAAA admin@lab" {
		t.Errorf("keys %q", k)
	}
	if i := p.Network.Interfaces[0]; i.MAC != facts.MAC || i.Addresses[0] != "10.1.0.14/24" {
		t.Errorf("interface %+v", i)
	}
	files := map[string]personal.File{}
	for _, f := range p.Files {
		files[f.Path] = f
	}
	for path, want := range map[string]string{
		"/etc/motd":                             "lab05 abc debian:1\n",
		"/var/lib/cloud/seed/nocloud/meta-data": "instance-id: 52-54-00-00-00-01-3\nlocal-hostname: lab05\n",
		"/var/lib/cloud/seed/nocloud/user-data": "#cloud-config\n",
		"/etc/ssh/ssh_host_ed25519_key":         "private\n",
		"/etc/ssh/ssh_host_ed25519_key.pub":     "public\n",
	} {
		if files[path].Content != want {
			t.Errorf("%s: %q, want %q", path, files[path].Content, want)
		}
	}
	if m, err := new(files["/etc/ssh/ssh_host_ed25519_key"]).Permissions(); err != nil || m != 0o600 {
		t.Errorf("the private key has mode %o, %v", m, err)
	}
	// What a server sends comes out as it went in.
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := personal.ParsePersonality(b)
	if err != nil || len(again.Files) != len(p.Files) || again.Hostname != p.Hostname {
		t.Errorf("after JSON %+v, %v", again, err)
	}
}

func TestMachineID(t *testing.T) {
	for value, want := range map[string]string{
		"derived": secrets.Derived, "random": secrets.Random, "empty": "", "uninitialized": "uninitialized",
		"{{printf `%032x` .Index}}": "00000000000000000000000000000004",
	} {
		b, _ := json.Marshal(map[string]string{"machine_id": value})
		p, err := parse(t, string(b)).For(facts, secrets)
		if err != nil || p.MachineID == nil || *p.MachineID != want {
			t.Errorf("%s: %v, %v; want %q", value, p, err, want)
		}
	}
	if p, err := parse(t, "{}").For(facts, secrets); err != nil || p.MachineID != nil || p.ResetHostKeys {
		t.Errorf("an empty document: %+v, %v", p, err)
	}
}

// TestRefused: what is wrong for every machine is refused when the document is
// read, what is wrong for one when it is rendered; the text names the field.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ doc, at, says string }{
		{`[]`, "parse", "document"},
		{`{"hostnam": "x"}`, "parse", "hostnam"},
		{`{} {}`, "parse", "follows"},
		{`{"hostname": "{{.Nonsense}}"}`, "parse", "Nonsense"},
		{`{"hostname": "{{"}`, "parse", "hostname"},
		{`{"ssh_host_keys": "mine"}`, "parse", "mine"},
		{`{"ssh_host_key_types": ["dsa"]}`, "parse", "dsa"},
		{`{"network": {"renderer": "wicked", "interfaces": []}}`, "parse", "wicked"},
		{`{"root": {"partition": 1, "subvolume": "a,rw"}}`, "parse", "subvolume"},
		{`{"scripts": {"after": [{"name": "../x", "text": "true"}]}}`, "parse", "../x"},
		{`{"scripts": {"after": [{"name": "x", "text": " "}]}}`, "parse", "empty"},
		{`{"scripts": {"before": [{"name": "x", "text": "true", "timeout": "-1s"}]}}`, "parse", "timeout"},
		{`{"files": [{"path": "/x", "content": "{{range .MACs}}{{template \"a\"}}{{end}}"}]}`, "parse", "file 1"},
		{`{"files": [{"path": "/x", "content": "{{define \"a\"}}xxxxxxxx{{template \"a\" .}}{{end}}{{template \"a\" .}}"}]}`, "parse", "file 1"},
		{`{"hostname": "-x"}`, "render", "hostname"},
		{`{"hostname": "a b"}`, "render", "hostname"},
		{`{"hostname": "` + strings.Repeat("a", 65) + `"}`, "render", "hostname"},
		{`{"machine_id": "xyz"}`, "render", "machine_id"},
		{`{"machine_id": "{{.UUID}}"}`, "render", "machine_id"}, // it has none
		{`{"authorized_keys": {"../etc": []}}`, "render", "../etc"},
		{`{"authorized_keys": {"root": ["a\nb"]}}`, "render", "root"},
		{`{"files": [{"path": "etc/x", "content": ""}]}`, "render", "etc/x"},
		{`{"files": [{"path": "/etc/../x", "content": ""}]}`, "render", "/etc/../x"},
		{`{"files": [{"path": "/dev/sda", "content": ""}]}`, "render", "/dev/sda"},
		{`{"files": [{"path": "/x", "content": "", "mode": "rw"}]}`, "render", "mode"},
		{`{"files": [{"path": "/x", "content": "", "owner": "a:b"}]}`, "render", "a:b"},
		{`{"network": {"interfaces": []}}`, "render", "0 interfaces"},
		{`{"network": {"interfaces": [{"mac": "1"}]}}`, "render", "mac"},
		{`{"network": {"interfaces": [{"name": "a b"}]}}`, "render", "a b"},
		{`{"network": {"interfaces": [{"addresses": ["10.0.0.1"]}]}}`, "render", "10.0.0.1"},
		{`{"network": {"interfaces": [{"gateways": ["10.0.0.1", "10.0.0.2"]}]}}`, "render", "gateways"},
		{`{"network": {"interfaces": [{"dns": ["x"]}]}}`, "render", "DNS"},
		{`{"network": {"interfaces": [{"search": ["a\nb"]}]}}`, "render", "search"},
		{`{"network": {"interfaces": [{"mtu": 1}]}}`, "render", "mtu"},
	} {
		d, err := personal.Parse([]byte(tt.doc))
		if tt.at == "render" && err == nil {
			_, err = d.For(facts, secrets)
		} else if tt.at == "render" {
			t.Errorf("%s is refused for every machine: %v", tt.doc, err)
			continue
		}
		if !errors.Is(err, personal.ErrInvalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want one about %q", tt.doc, err, tt.says)
		}
	}
	if _, err := personal.Parse(make([]byte, personal.MaxDocument+1)); !errors.Is(err, personal.ErrInvalid) {
		t.Errorf("a huge document: %v", err)
	}
}

// TestTooMuch: a template cannot make more than there is room for.
func TestTooMuch(t *testing.T) {
	f := facts
	f.MACs = make([]string, 64)
	content := "{{range .MACs}}" + strings.Repeat("x", 20<<10) + "{{end}}"
	b, _ := json.Marshal(personal.Document{Files: []personal.File{{Path: "/x", Content: content}}})
	if _, err := parse(t, string(b)).For(f, secrets); !errors.Is(err, personal.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	f := facts
	f.Product = "a\nLD_PRELOAD=/x"
	env := f.Environment()
	want := map[string]bool{"HUCK_NODE=52-54-00-00-00-01": true, "HUCK_INDEX=4": true, "HUCK_PRODUCT=aLD_PRELOAD=/x": true}
	for _, e := range env {
		delete(want, e)
		if strings.Contains(e, "\n") {
			t.Errorf("%q", e)
		}
	}
	if len(want) > 0 {
		t.Errorf("%v are not in %v", want, env)
	}
}

func TestLimit(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 10 * time.Minute, "90s": 90 * time.Second} {
		if got, err := (personal.Script{Timeout: text}).Limit(); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestManual parses and renders the examples of the document's manual.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../bootserver/PERSONALISE.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, e := range examples {
		if _, err := parse(t, e[1]).For(facts, secrets); err != nil {
			t.Error(err)
		}
	}
	// Every field of the schema is told of.
	for _, field := range regexp.MustCompile(`json:"([a-z0-9_]+)`).FindAllStringSubmatch(source(t), -1) {
		if !strings.Contains(string(text), "`"+field[1]+"`") {
			t.Errorf("the manual does not tell of %q", field[1])
		}
	}
}

func source(t *testing.T) string {
	b, err := os.ReadFile("personal.go")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"hostname": "n{{.Index}}", "machine_id": "random", "ssh_host_keys": "stored"}`))
	f.Add([]byte(`{"network": {"interfaces": [{"name": "lan0", "dhcp4": true, "addresses": ["::1/64"], "gateways": ["fe80::1"]}]}}`))
	f.Add([]byte(`{"files": [{"path": "/a/{{.Serial}}", "content": "{{.MACs}}", "mode": "4755"}], "scripts": {"after": [{"name": "a", "text": "b"}]}}`))
	f.Add([]byte(`{"root": {"partition": 2, "subvolume": "@"}, "authorized_keys": {"root": ["k"]}, "nocloud": {"meta_data": "m"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := personal.Parse(b)
		if err != nil {
			return
		}
		p, err := d.For(facts, secrets)
		if err != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := personal.ParsePersonality(out); err != nil {
			t.Errorf("%s: the appliance would refuse it: %v", b, err)
		}
	})
}
