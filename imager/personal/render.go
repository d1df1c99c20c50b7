package personal

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
)

// Facts are what templates may name, and, in capitals behind HUCK_, what the
// environment of scripts has.
type Facts struct {
	// Node is the node's ID, and all that is known of it when it has no name.
	Node string `json:"node"`
	// Hostname is what Document.Hostname renders to, without the domain; empty
	// in that template itself.
	Hostname string `json:"hostname"`
	// MAC is the address of the interface that reached the server, MACs are all.
	MAC  string   `json:"mac"`
	MACs []string `json:"macs"`
	// UUID and Serial are SMBIOS'; empty where the firmware has none.
	UUID         string `json:"uuid"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Product      string `json:"product"`
	// Address is the machine's IP address while it is imaged.
	Address string `json:"address"`
	// Group is the node's group, and Index its number in it, from 0; empty and 0
	// for a node in none.
	Group string `json:"group"`
	Index int    `json:"index"`
	// Image is the reference of the image.
	Image string `json:"image"`
	// Assignment counts the node's assignments.
	Assignment uint64 `json:"assignment"`
}

// sample is a machine that has everything, to try templates on.
var sample = Facts{
	Node: "52-54-00-12-34-56", Hostname: "node", MAC: "52:54:00:12:34:56", MACs: []string{"52:54:00:12:34:56", "52:54:00:12:34:57"},
	UUID: "4c4c4544-0051-3610-8052-b4c04f4d3132", Serial: "S1234", Manufacturer: "M", Product: "P", Address: "10.0.0.7",
	Group: "group", Index: 7, Image: "debian:1", Assignment: 1,
}

// Environment returns the facts as variables, sorted. What could end a line is
// not in them.
func (f *Facts) Environment() []string {
	env := []string{
		"HUCK_NODE=" + f.Node, "HUCK_HOSTNAME=" + f.Hostname, "HUCK_MAC=" + f.MAC, "HUCK_MACS=" + strings.Join(f.MACs, " "),
		"HUCK_UUID=" + f.UUID, "HUCK_SERIAL=" + f.Serial, "HUCK_MANUFACTURER=" + f.Manufacturer, "HUCK_PRODUCT=" + f.Product,
		"HUCK_ADDRESS=" + f.Address, "HUCK_GROUP=" + f.Group, fmt.Sprintf("HUCK_INDEX=%d", f.Index), "HUCK_IMAGE=" + f.Image,
	}
	for i := range env {
		env[i] = strings.Map(func(r rune) rune {
			if r < ' ' {
				return -1
			}
			return r
		}, env[i])
	}
	slices.Sort(env)
	return env
}

// Personality is what a document comes to for one machine. It holds private
// keys: it goes to that machine and nobody else.
type Personality struct {
	Facts    Facts  `json:"facts"`
	Hostname string `json:"hostname,omitempty"`
	// MachineID is the content of /etc/machine-id; nil leaves the image's.
	MachineID *string `json:"machine_id,omitempty"`
	// ResetHostKeys removes the image's SSH host keys; new ones are among Files.
	ResetHostKeys  bool                `json:"reset_host_keys,omitempty"`
	AuthorizedKeys map[string][]string `json:"authorized_keys,omitempty"`
	Network        *Network            `json:"network,omitempty"`
	Files          []File              `json:"files,omitempty"`
	Root           *Root               `json:"root,omitempty"`
	Scripts        Scripts             `json:"scripts,omitzero"`
}

// Secrets are what a machine gets that no template can know.
type Secrets struct {
	// Derived and Random are machine IDs: 32 lower-case hexadecimal digits.
	Derived, Random string
	// HostKeys are needed where Document.SSHHostKeys is KeysStored.
	HostKeys []HostKey
}

// HostKey is a key pair of a machine's SSH server.
type HostKey struct {
	// Type is ed25519, ecdsa or rsa.
	Type string `json:"type"`
	// Private is in OpenSSH's format, Public an authorized_keys line.
	Private string `json:"private"`
	Public  string `json:"public"`
}

// KeyTypes returns the types of host keys that the document wants stored.
func (d *Document) KeyTypes() []string {
	switch {
	case d.SSHHostKeys != KeysStored:
		return nil
	case len(d.SSHHostKeyTypes) == 0:
		return keyTypes[:2]
	}
	return d.SSHHostKeyTypes
}

// Changes tells whether the document asks for anything in the installed system.
func (p *Personality) Changes() bool {
	return p.Hostname != "" || p.MachineID != nil || p.ResetHostKeys || len(p.AuthorizedKeys) > 0 || p.Network != nil || len(p.Files) > 0
}

// ParsePersonality reads what a server sent.
func ParsePersonality(b []byte) (*Personality, error) {
	p := new(Personality)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, invalid("the personality: %v", err)
	}
	return p, p.check()
}

// For renders the document for a machine. Errors wrap ErrInvalid and name the
// field.
func (d *Document) For(f Facts, s Secrets) (*Personality, error) {
	p, err := d.render(f)
	if err != nil {
		return nil, err
	}
	switch p.MachineID = nil; d.MachineID {
	case "":
	case MachineDerived:
		p.MachineID = &s.Derived
	case MachineRandom:
		p.MachineID = &s.Random
	case MachineUninitialized:
		p.MachineID = new(MachineUninitialized)
	case MachineEmpty:
		p.MachineID = new("")
	default:
		id, err := newRenderer(&p.Facts).text("machine_id", d.MachineID)
		if err != nil {
			return nil, err
		}
		if id == "" || id == MachineUninitialized {
			return nil, invalid("machine_id %q renders to nothing", d.MachineID)
		}
		p.MachineID = &id
	}
	for _, k := range s.HostKeys {
		name := "/etc/ssh/ssh_host_" + k.Type + "_key"
		p.Files = append(p.Files, File{Path: name, Content: k.Private, Mode: "0600"}, File{Path: name + ".pub", Content: k.Public, Mode: "0644"})
	}
	return p, p.check()
}

// render fills in the templates, and judges nothing.
func (d *Document) render(f Facts) (*Personality, error) {
	f.Hostname = ""
	p := &Personality{Facts: f, ResetHostKeys: d.SSHHostKeys != "", Root: d.Root, Scripts: d.Scripts}
	r := newRenderer(&p.Facts)
	p.Hostname = r.field("hostname", d.Hostname)
	p.Facts.Hostname, _, _ = strings.Cut(p.Hostname, ".")
	if d.MachineID != "" {
		r.field("machine_id", d.MachineID)
	}
	if len(d.AuthorizedKeys) > 0 {
		p.AuthorizedKeys = make(map[string][]string, len(d.AuthorizedKeys))
		for _, name := range slices.Sorted(maps.Keys(d.AuthorizedKeys)) {
			p.AuthorizedKeys[name] = r.fields("authorized_keys of "+name, d.AuthorizedKeys[name])
		}
	}
	if d.Network != nil {
		p.Network = r.network(d.Network)
	}
	if len(d.Files) > maxList || len(d.AuthorizedKeys) > maxList {
		return nil, invalid("%d files and keys of %d users, at most %d each", len(d.Files), len(d.AuthorizedKeys), maxList)
	}
	for i, file := range d.Files {
		name := fmt.Sprintf("file %d", i+1)
		file.Path = r.field(name+": path", file.Path)
		file.Content = r.field(name+": content", file.Content)
		p.Files = append(p.Files, file)
	}
	if d.NoCloud != nil {
		p.Files = append(p.Files, r.noCloud(d.NoCloud)...)
	}
	return p, r.err
}

// renderer renders templates until one fails.
type renderer struct {
	facts *Facts
	left  int // bytes that may still come
	err   error
}

func newRenderer(f *Facts) *renderer { return &renderer{facts: f, left: MaxRendered} }

var functions = template.FuncMap{
	"add":     func(a, b int) int { return a + b },
	"lower":   strings.ToLower,
	"upper":   strings.ToUpper,
	"replace": func(old, new, s string) string { return strings.ReplaceAll(s, old, new) },
}

// field is text for chains of fields: the first error counts.
func (r *renderer) field(name, text string) string {
	if r.err != nil {
		return ""
	}
	out, err := r.text(name, text)
	r.err = err
	return out
}

func (r *renderer) fields(name string, list []string) []string {
	if len(list) > maxList && r.err == nil {
		r.err = invalid("%s: %d lines, at most %d", name, len(list), maxList)
	}
	var out []string
	for _, text := range list {
		out = append(out, r.field(name, text))
	}
	return out
}

func (r *renderer) text(name, text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, r.take(len(text))
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return "", invalid("%s: %v", name, err)
	}
	var b strings.Builder
	if err := t.Execute(&capped{&b, r}, r.facts); err != nil {
		return "", invalid("%s: %v", name, err)
	}
	return b.String(), nil
}

func (r *renderer) take(n int) error {
	if r.left -= n; r.left < 0 {
		return invalid("more than %d bytes come of the document", MaxRendered)
	}
	return nil
}

// capped ends a template that writes too much.
type capped struct {
	b *strings.Builder
	r *renderer
}

// Write implements io.Writer.
func (c *capped) Write(p []byte) (int, error) {
	if err := c.r.take(len(p)); err != nil {
		return 0, err
	}
	return c.b.Write(p)
}

func (r *renderer) network(n *Network) *Network {
	out := &Network{Renderer: n.Renderer}
	for k, i := range n.Interfaces {
		name := fmt.Sprintf("network interface %d", k+1)
		if i.MAC == "" {
			i.MAC = r.facts.MAC
		}
		i.Name, i.MAC = r.field(name+": name", i.Name), r.field(name+": mac", i.MAC)
		i.Addresses, i.Gateways = r.fields(name+": addresses", i.Addresses), r.fields(name+": gateways", i.Gateways)
		i.DNS, i.Search = r.fields(name+": dns", i.DNS), r.fields(name+": search", i.Search)
		out.Interfaces = append(out.Interfaces, i)
	}
	return out
}

// noCloud returns the files of a seed
// (docs.cloud-init.io, reference/datasources/nocloud).
func (r *renderer) noCloud(n *NoCloud) []File {
	meta := n.MetaData
	if meta == "" {
		meta = "instance-id: {{.Node}}-{{.Assignment}}\n"
		if r.facts.Hostname != "" {
			meta += "local-hostname: {{.Hostname}}\n"
		}
	}
	const dir = "/var/lib/cloud/seed/nocloud/"
	// cloud-init takes a seed only if both meta-data and user-data are there.
	files := []File{
		{Path: dir + "meta-data", Content: r.field("nocloud: meta_data", meta)},
		// User data may hold passwords.
		{Path: dir + "user-data", Content: r.field("nocloud: user_data", n.UserData), Mode: "0600"},
	}
	if n.VendorData != "" {
		files = append(files, File{Path: dir + "vendor-data", Content: r.field("nocloud: vendor_data", n.VendorData), Mode: "0600"})
	}
	if n.NetworkConfig != "" {
		files = append(files, File{Path: dir + "network-config", Content: r.field("nocloud: network_config", n.NetworkConfig), Mode: "0600"})
	}
	return files
}
