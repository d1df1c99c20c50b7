package nodes

import (
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"

	"huck/imager/api"
)

// Caps on an inventory, far above any machine's.
const (
	maxMACs   = 64
	maxDisks  = 256
	maxString = 256
)

// check refuses an inventory that cannot be a machine's and brings its
// addresses into one form.
func check(inv *api.Inventory) error {
	if len(inv.MACs) == 0 || len(inv.MACs) > maxMACs {
		return invalid("inventory: %d MAC addresses, want 1 to %d", len(inv.MACs), maxMACs)
	}
	if len(inv.Disks) > maxDisks {
		return invalid("inventory: %d disks, at most %d", len(inv.Disks), maxDisks)
	}
	macs := make([]string, 0, len(inv.MACs))
	for _, s := range inv.MACs {
		mac, err := parseMAC(s)
		if err != nil {
			return err
		}
		if !slices.Contains(macs, mac) {
			macs = append(macs, mac)
		}
	}
	inv.MACs = macs
	if inv.BootID == "" || strings.ContainsFunc(inv.BootID, func(c rune) bool {
		return !(c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}) {
		return invalid("inventory: boot ID %.80q", inv.BootID)
	}
	words := []string{inv.SystemUUID, inv.Serial, inv.Manufacturer, inv.Product, inv.Firmware, inv.Address, inv.BootID, inv.Version}
	for _, d := range inv.Disks {
		words = append(words, d.Path, d.Serial, d.WWN, d.Model, d.Transport)
		for _, c := range d.Contents {
			words = append(words, c.PartUUID, c.Kind, c.UUID, c.Label)
		}
	}
	for _, s := range words {
		if len(s) > maxString {
			return invalid("inventory: %.20q… is longer than %d bytes", s, maxString)
		}
	}
	return nil
}

// parseMAC reads a unicast Ethernet address, with colons or dashes, and
// returns it with colons.
func parseMAC(s string) (string, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 || hw[0]&1 != 0 || [6]byte(hw) == [6]byte{} {
		return "", invalid("%.80q is no Ethernet address of a machine", s)
	}
	return hw.String(), nil
}

// saneUUID returns the UUID in one form, or "" for none and for those that
// firmware without one reports.
func saneUUID(s string) string {
	s = strings.ToLower(s)
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || s == "03000200-0400-0500-0006-000700080009" {
		return ""
	}
	if !slices.ContainsFunc(b, func(c byte) bool { return c != b[0] }) { // all 00, all FF
		return ""
	}
	return s
}

// same reports whether two inventories are one machine's. Where both have a
// UUID it decides, because a dongle or a dock carries its MAC from machine to
// machine; unless the serials tell that a vendor gave one UUID to many. Else
// one MAC in common will do.
func same(a, b *api.Inventory) bool {
	ua, ub := saneUUID(a.SystemUUID), saneUUID(b.SystemUUID)
	if ua != "" && ub != "" {
		return ua == ub && (a.Serial == b.Serial || a.Serial == "" || b.Serial == "")
	}
	return slices.ContainsFunc(a.MACs, func(m string) bool { return slices.Contains(b.MACs, m) })
}

// match returns the node that an inventory belongs to, or nil.
func (r *Registry) match(inv *api.Inventory) *node {
	var byMAC *node
	for _, n := range r.all() {
		rec, _ := n.look()
		if !same(&rec.Inventory, inv) {
			continue
		}
		if saneUUID(rec.Inventory.SystemUUID) != "" && saneUUID(inv.SystemUUID) != "" {
			return n
		}
		byMAC = n
	}
	return byMAC
}

// newID makes an ID from the first MAC. It is another machine's if a dongle
// came along.
func (r *Registry) newID(mac string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	base := normalID(mac)
	id := base
	for i := 2; r.nodes[id] != nil; i++ {
		id = fmt.Sprintf("%s-%d", base, i)
	}
	return id
}
