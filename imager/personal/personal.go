// Package personal is what makes one machine's copy of an image differ from
// another's: the document that an operator writes (Document), the facts of a
// machine that its templates may name (Facts), and what comes of the two for
// one machine (Personality). Values only: the boot server renders, the
// appliance applies. bootserver/PERSONALISE.md is the document's manual.
package personal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrInvalid is wrapped by every error about a document or what it renders to.
var ErrInvalid = errors.New("personalise")

func invalid(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, a...)...)
}

const (
	// MaxDocument bounds a document in bytes: it travels in one API call, and
	// etcd takes 1.5 MiB in one value.
	MaxDocument = 512 << 10
	// MaxRendered bounds all that a document renders to for one machine, in bytes.
	MaxRendered = 1 << 20
	// maxList bounds each list of a document; maxText each name or line.
	maxList = 256
	maxText = 1024
)

// Document is what an operator declares for a node or a group. Every part is
// optional; what is absent stays as it is in the image. Strings marked T are
// text/template templates over Facts.
type Document struct {
	// Hostname (T) goes to /etc/hostname and /etc/hosts; a domain may follow.
	Hostname string `json:"hostname,omitempty"`
	// MachineID is derived, random, uninitialized, empty, or (T) 32
	// hexadecimal digits, see the Machine… constants.
	MachineID string `json:"machine_id,omitempty"`
	// SSHHostKeys is stored or remove.
	SSHHostKeys string `json:"ssh_host_keys,omitempty"`
	// SSHHostKeyTypes are the types of stored keys: ed25519, ecdsa, rsa; the
	// first two if there are none.
	SSHHostKeyTypes []string `json:"ssh_host_key_types,omitempty"`
	// AuthorizedKeys are, by user, all lines (T) of its authorized_keys.
	AuthorizedKeys map[string][]string `json:"authorized_keys,omitempty"`
	Network        *Network            `json:"network,omitempty"`
	Files          []File              `json:"files,omitempty"`
	NoCloud        *NoCloud            `json:"nocloud,omitempty"`
	Root           *Root               `json:"root,omitempty"`
	Scripts        Scripts             `json:"scripts,omitzero"`
}

// The special values of Document.MachineID.
const (
	// MachineDerived is the same at every installation of one node, and another
	// one for every node.
	MachineDerived = "derived"
	// MachineRandom is new at every installation.
	MachineRandom = "random"
	// MachineUninitialized makes systemd take the next boot for the first.
	MachineUninitialized = "uninitialized"
	// MachineEmpty has systemd make an ID at the next boot.
	MachineEmpty = "empty"
)

// The values of Document.SSHHostKeys.
const (
	// KeysStored: a node keeps its keys, which the boot server made and keeps.
	KeysStored = "stored"
	// KeysRemove: the image's keys are removed; the system makes its own.
	KeysRemove = "remove"
)

// Network is the network configuration in a form that does not depend on what
// the installed system configures its network with.
type Network struct {
	// Renderer is networkd, ifupdown, networkmanager, netplan, or auto (the
	// default), which looks at what is installed.
	Renderer   string      `json:"renderer,omitempty"`
	Interfaces []Interface `json:"interfaces"`
}

// Interface is one Ethernet interface.
type Interface struct {
	// Name (T) is given to the interface; without one it keeps its own, which
	// ifupdown cannot do.
	Name string `json:"name,omitempty"`
	// MAC (T) finds it; {{.MAC}} by default.
	MAC string `json:"mac,omitempty"`
	// DHCP4 and DHCP6 ask for addresses. With neither of them, and no
	// Addresses, the interface is only named.
	DHCP4 bool `json:"dhcp4,omitempty"`
	DHCP6 bool `json:"dhcp6,omitempty"`
	// Addresses (T) are CIDR prefixes; Gateways (T) at most one a family.
	Addresses []string `json:"addresses,omitempty"`
	Gateways  []string `json:"gateways,omitempty"`
	// DNS (T) are servers, Search (T) domains.
	DNS    []string `json:"dns,omitempty"`
	Search []string `json:"search,omitempty"`
	// MTU in bytes; 0 leaves it.
	MTU int `json:"mtu,omitempty"`
}

// File is a file to write into the installed system.
type File struct {
	// Path (T) is absolute; missing folders are made (0755, root).
	Path string `json:"path"`
	// Content (T).
	Content string `json:"content"`
	// Mode is octal, 0644 by default. Owner and Group are names of the
	// installed system or numbers, root by default.
	Mode  string `json:"mode,omitempty"`
	Owner string `json:"owner,omitempty"`
	Group string `json:"group,omitempty"`
}

// NoCloud is a seed of cloud-init's NoCloud data source; each is a file below
// /var/lib/cloud/seed/nocloud (T).
type NoCloud struct {
	// MetaData has by default an instance ID that is new with every assignment,
	// and the hostname.
	MetaData      string `json:"meta_data,omitempty"`
	UserData      string `json:"user_data,omitempty"`
	VendorData    string `json:"vendor_data,omitempty"`
	NetworkConfig string `json:"network_config,omitempty"`
}

// Root names the installed root filesystem where it cannot be found.
type Root struct {
	// Partition is its number; 0 is a disk without a partition table.
	Partition int `json:"partition"`
	// Subvolume is its Btrfs subvolume, empty for the filesystem's default.
	Subvolume string `json:"subvolume,omitempty"`
}

// Scripts are run one after the other, each only if the one before ended with
// 0.
type Scripts struct {
	// Before run in the appliance before the target disk is chosen.
	Before []Script `json:"before,omitempty"`
	// After run in the installed system (chroot) after it was personalised.
	After []Script `json:"after,omitempty"`
}

// Script is a shell script, or one that begins with #!. It is no template: its
// environment has the facts.
type Script struct {
	Name string `json:"name"`
	Text string `json:"text"`
	// Timeout is a duration such as 90s or 10m (the default).
	Timeout string `json:"timeout,omitempty"`
}

// Parse reads and checks a document: its form, its templates, and that they
// name only facts that there are. Errors wrap ErrInvalid.
func Parse(b []byte) (*Document, error) {
	if len(b) > MaxDocument {
		return nil, invalid("the document has %d bytes, at most %d", len(b), MaxDocument)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	doc := new(Document)
	if err := d.Decode(doc); err != nil {
		return nil, invalid("the document: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, invalid("the document: something follows the JSON object")
	}
	if err := doc.check(); err != nil {
		return nil, err
	}
	return doc, nil
}
