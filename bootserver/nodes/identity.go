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

// sharedUUIDs are UUIDs that vendors gave to whole series of machines.
var sharedUUIDs = []string{
	"03000200-0400-0500-0006-000700080009", // AMI's reference firmware
	"00020003-0004-0005-0006-000700080009", // the same, in the other byte order
	"00000000-0000-1000-8000-000000000000",
	"01020304-0506-0708-090a-0b0c0d0e0f10",
	"12345678-1234-5678-90ab-cddeefaabbcc",
	"4c4c4544-0000-2010-8020-80c04f202020", // Dell without a service tag
	"ffffffff-ffff-ffff-ffff-ffffffffff00",
}

// isMAC tells whether a machine can be named by s before it was ever seen.
func isMAC(s string) bool {
	_, err := parseMAC(s)
	return err == nil
}

// saneUUID returns the UUID in one form, or "" for none and for those that
// firmware without one of its own reports.
func saneUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || slices.Contains(sharedUUIDs, s) || uniform(string(b)) { // all 00, all FF
		return ""
	}
	return s
}

// sharedSerials are what stands for a serial number where nobody filled one in.
var sharedSerials = []string{
	"to be filled by o.e.m.", "to be filled by oem", "system serial number", "serial number", "default string", "default",
	"not specified", "not applicable", "not available", "unknown", "none", "null", "invalid", "oem", "o.e.m.", "n/a", "na",
	"empty", "chassis serial number", "base board serial number", "123456789", "1234567890", "0123456789", "1234567", "12345678",
	"system_serial_number", "sernum0", "serial", "sn",
}

// saneSerial returns the serial number in one form, or "" for none and for
// words that stand in its place.
func saneSerial(s string) string {
	s = strings.ToLower(clean(s))
	if slices.Contains(sharedSerials, s) || uniform(s) {
		return ""
	}
	return s
}

// uniform tells whether a string is one byte over and over: "0", "xxxx", "....".
func uniform(s string) bool { return s == "" || strings.Trim(s, s[:1]) == "" }

// clean brings white space into one form.
func clean(s string) string { return strings.Join(strings.Fields(s), " ") }

// never is the score of two inventories that cannot be one machine's, enough
// the least of two that are.
const (
	never  = -100
	enough = 4
)

// score weighs whether two inventories are one machine's. To take two machines
// for one is the worse mistake, for one of them would get the other's image; a
// machine that is not recognised is listed as a stranger and left alone.
//
//   - UUIDs or serial numbers that both have and that differ rule it out,
//     whatever else is alike: a dock carries its MAC from machine to machine, and
//     some vendors gave one UUID to many.
//   - A serial number in common is enough where nothing contradicts it. A UUID is
//     not, alone: it takes a MAC or a disk in common, or the serial number.
//   - MACs in common are enough, unless each side has others of its own: that is
//     a dock, or a second card that was changed, and something else has to tell.
//   - Disks move and are replaced: they only tip the scales.
//   - One boot has one BootID, whatever was plugged in since.
func score(a, b *api.Inventory) int {
	sum := 0
	switch ua, ub := saneUUID(a.SystemUUID), saneUUID(b.SystemUUID); {
	case ua != "" && ub != "" && ua != ub:
		return never
	case ua != "" && ua == ub:
		sum += 3
	case ua != ub: // firmware seldom forgets
		sum--
	}
	switch sa, sb := saneSerial(a.Serial), saneSerial(b.Serial); {
	case sa != "" && sb != "" && sa != sb:
		return never
	case sa != "" && sa == sb && sameModel(a, b):
		sum += 4
	}
	if common, ofA, ofB := overlap(a.MACs, b.MACs); common && ofA && ofB {
		sum++
	} else if common {
		sum += 5
	}
	if a.BootID != "" && a.BootID == b.BootID {
		sum += enough
	}
	da, db := diskSerials(a), diskSerials(b)
	if common, _, _ := overlap(da, db); common {
		sum += 3
	} else if len(da) > 0 && len(db) > 0 {
		sum--
	}
	return sum
}

// sameModel is false where two inventories name different models: serial
// numbers are counted by each vendor anew.
func sameModel(a, b *api.Inventory) bool {
	alike := func(x, y string) bool { return clean(x) == "" || clean(y) == "" || clean(x) == clean(y) }
	return alike(a.Manufacturer, b.Manufacturer) && alike(a.Product, b.Product)
}

// overlap tells whether two lists have something in common, and whether each
// has something that the other has not.
func overlap(a, b []string) (common, ofA, ofB bool) {
	for _, s := range a {
		if slices.Contains(b, s) {
			common = true
		} else {
			ofA = true
		}
	}
	ofB = slices.ContainsFunc(b, func(s string) bool { return !slices.Contains(a, s) })
	return common, ofA, ofB
}

// diskSerials are those of the disks that stay in the machine.
func diskSerials(inv *api.Inventory) (list []string) {
	for _, d := range inv.Disks {
		if s := saneSerial(d.Serial); s != "" && !d.Removable && !d.Boot && d.Transport != "usb" {
			list = append(list, clean(d.Model)+" "+s)
		}
	}
	return list
}

// match returns the node that an inventory belongs to, or nil. Of several the
// one that is most like it counts, and of two alike neither.
func (r *Registry) match(inv *api.Inventory) *node {
	var best *node
	most, tie := enough-1, false
	for _, n := range r.all() {
		rec, _ := n.look()
		switch s := score(&rec.Inventory, inv); {
		case s > most:
			best, most, tie = n, s, false
		case s == most && best != nil:
			tie = true
		}
	}
	if tie {
		return nil
	}
	return best
}

// identify completes an inventory by what its node was known by before: its
// firmware may have lost that, which makes it no other machine.
func identify(inv, before *api.Inventory) {
	if saneUUID(inv.SystemUUID) == "" && before.SystemUUID != "" {
		inv.SystemUUID = before.SystemUUID
	}
	if saneSerial(inv.Serial) == "" && before.Serial != "" {
		inv.Serial = before.Serial
	}
}

// byMAC returns the one node with that hardware address; nil if there is none,
// or more than one, as with a dock that goes round.
func (r *Registry) byMAC(mac string) (found *node) {
	for _, n := range r.all() {
		if rec, _ := n.look(); !slices.Contains(rec.Inventory.MACs, mac) {
			continue
		}
		if found != nil {
			return nil
		}
		found = n
	}
	return found
}

// ByMAC returns the ID of the one node with that hardware address, or "".
func (r *Registry) ByMAC(mac string) string {
	n := r.byMAC(mac)
	if n == nil {
		return ""
	}
	rec, _ := n.look()
	return rec.ID
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
