package nodes_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"huck/imager/api"
)

// Identities for tests.
const (
	u1, u2     = "8f1b2c3d-2222-3333-4444-555555555555", "8f1b2c3d-2222-3333-4444-666666666666"
	ff, zero   = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "00000000-0000-0000-0000-000000000000"
	ami        = "03000200-0400-0500-0006-000700080009"
	m1, m2, m3 = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
	dock       = "02:00:00:00:00:dd"
)

// machine is an inventory; words are a UUID (with dashes), MACs (with colons),
// disk:SERIAL, model:NAME, and else the serial number.
func machine(words ...string) api.Inventory {
	inv := api.Inventory{Manufacturer: "Acme", Product: "One"}
	for _, w := range words {
		kind, rest, _ := strings.Cut(w, ":")
		switch {
		case kind == "disk":
			inv.Disks = append(inv.Disks, api.Disk{Path: "/dev/sda", Serial: rest})
		case kind == "stick":
			inv.Disks = append(inv.Disks, api.Disk{Path: "/dev/sdb", Serial: rest, Transport: "usb"})
		case kind == "model":
			inv.Product = rest
		case strings.Count(w, ":") == 5, strings.Count(w, "-") == 5:
			inv.MACs = append(inv.MACs, w)
		case strings.Count(w, "-") == 4:
			inv.SystemUUID = w
		default:
			inv.Serial = w
		}
	}
	return inv
}

// TestIdentity has the pains of FACTS section 1 point 6, and the ways out.
func TestIdentity(t *testing.T) {
	type words = []string
	for name, c := range map[string]struct {
		a, b words
		same bool
	}{
		"same MAC":                       {words{m1}, words{m1}, true},
		"nothing in common":              {words{m1}, words{m2}, false},
		"dashes and case":                {words{"02-00-00-00-00-0a"}, words{"02:00:00:00:00:0A"}, true},
		"a card more":                    {words{m1}, words{m1, m2}, true},
		"a card less":                    {words{m1, m2}, words{m2}, true},
		"changed card, UUID and serial":  {words{u1, "S123", m1}, words{strings.ToUpper(u1), "s123", m2}, true},
		"changed card, serial alone":     {words{"S123", m1}, words{"S123", m2}, true},
		"changed card, UUID and disk":    {words{u1, m1, "disk:D1"}, words{u1, m2, "disk:D1"}, true},
		"changed card of two, and disk":  {words{m1, m2, "disk:D1"}, words{m1, m3, "disk:D1"}, true},
		"changed card of two, and UUID":  {words{u1, m1, m2}, words{u1, m1, m3}, true},
		"changed disk":                   {words{u1, "S123", m1, "disk:D1"}, words{u1, "S123", m1, "disk:D2"}, true},
		"changed disk, MAC alone":        {words{m1, "disk:D1"}, words{m1, "disk:D2"}, true},
		"changed card and disk":          {words{u1, "S123", m1, "disk:D1"}, words{u1, "S123", m2, "disk:D2"}, true},
		"UUID unknown the second time":   {words{u1, m1}, words{m1}, true},
		"serial unknown the second time": {words{u1, "S123", m1}, words{u1, "None", m2, m1}, true},

		"dock, UUIDs differ":            {words{u1, dock, m1}, words{u2, dock, m2}, false},
		"dock, no cards of their own":   {words{u1, dock}, words{u2, dock}, false},
		"dock, serials differ":          {words{ff, "S123", dock}, words{ff, "S124", dock}, false},
		"dock, cards of their own only": {words{dock, m1}, words{dock, m2}, false},
		"dock, disks differ, too":       {words{dock, m1, "disk:D1"}, words{dock, m2, "disk:D2"}, false},
		"dock, one UUID known":          {words{u1, dock, m1}, words{dock, m2}, false},

		"UUIDs all FF":                    {words{ff, m1}, words{ff, m2}, false},
		"UUIDs all zero":                  {words{zero, m1}, words{zero, m2}, false},
		"vendor's UUID":                   {words{ami, m1}, words{ami, m2}, false},
		"vendor's UUID, one machine":      {words{ami, m1}, words{ami, m1}, true},
		"unknown vendor's, serials":       {words{u1, "S123", m1}, words{u1, "S124", m2}, false},
		"unknown vendor's, serials, dock": {words{u1, "S123", dock}, words{u1, "S124", dock}, false},
		"unknown vendor's, no serials":    {words{u1, "System Serial Number", m1}, words{u1, "System Serial Number", m2}, false},
		"unknown vendor's, other disks":   {words{u1, m1, "disk:D1"}, words{u1, m2, "disk:D2"}, false},

		"default serial":             {words{"To be filled by O.E.M.", m1}, words{"To be filled by O.E.M.", m2}, false},
		"default serial, white":      {words{" Default  string ", m1}, words{"Default string", m2}, false},
		"serial 0":                   {words{"0", m1}, words{"0", m2}, false},
		"serial of dots":             {words{"........", m1}, words{"........", m2}, false},
		"serial of another vendor's": {words{"S123", m1, "model:One"}, words{"S123", m2, "model:Two"}, false},
		"a stick that goes round":    {words{u1, m1, "stick:X9"}, words{u1, m2, "stick:X9"}, false},
		"a disk that moved":          {words{m1, "disk:D1"}, words{m2, "disk:D1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range [][2]words{{c.a, c.b}, {c.b, c.a}} {
				r := open(t, newKV())
				first, second := machine(order[0]...), machine(order[1]...)
				first.BootID, second.BootID = "1", "2"
				a, b := register(t, r, first), register(t, r, second)
				if (a.Node == b.Node) != c.same {
					t.Errorf("%v then %v: nodes %s and %s, want same = %v", order[0], order[1], a.Node, b.Node, c.same)
				}
				first.BootID = "3"
				if again := register(t, r, first).Node; again != a.Node && !c.same {
					t.Errorf("%v back: node %s, was %s", order[0], again, a.Node)
				}
			}
		})
	}
}

// TestIdentityFleet starts machines of every sad kind in random order, with
// docks and sticks going round and cards being changed. No two machines may
// ever be one node, and a machine keeps its node.
func TestIdentityFleet(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 5))
		r := open(t, newKV())
		const machines = 12
		uuids := []string{"", ff, zero, ami, u1} // u1: a vendor that gave one to all
		serials := []string{"", "0", "Default string", "To Be Filled By O.E.M."}
		var fleet []api.Inventory
		for i := range machines {
			own := fmt.Sprintf("02:00:00:00:01:%02x", i)
			inv := machine(own, fmt.Sprintf("disk:D%d", 100+i), serials[rng.IntN(len(serials))], uuids[rng.IntN(len(uuids))])
			if rng.IntN(2) == 0 {
				inv.SystemUUID = fmt.Sprintf("8f1b2c3d-0000-4000-8000-0000000000%02x", i)
			}
			if rng.IntN(2) == 0 {
				inv.Serial = fmt.Sprintf("SN%04d", i)
			}
			fleet = append(fleet, inv)
		}
		nodeOf, machineOf := map[int]string{}, map[string]int{}
		for boot := range 300 {
			i := rng.IntN(machines)
			inv := fleet[i]
			inv.BootID = fmt.Sprint(boot)
			inv.MACs = slices.Clone(inv.MACs)
			if rng.IntN(2) == 0 {
				inv.MACs = append([]string{dock}, inv.MACs...)
			}
			if saneID := strings.HasPrefix(inv.Serial, "SN"); saneID && rng.IntN(8) == 0 { // its own card is changed
				fleet[i].MACs = []string{fmt.Sprintf("02:00:00:01:%02x:%02x", boot>>8, boot&0xff)}
			}
			id := register(t, r, inv).Node
			if was, ok := nodeOf[i]; ok && was != id {
				t.Fatalf("seed %d, boot %d: machine %d was %s and is %s now: %+v", seed, boot, i, was, id, inv)
			}
			if other, ok := machineOf[id]; ok && other != i {
				t.Fatalf("seed %d, boot %d: machines %d and %d are both %s: %+v", seed, boot, other, i, id, inv)
			}
			nodeOf[i], machineOf[id] = id, i
		}
	}
}

// TestDockOnTwo: a dock's MAC names neither of the machines that it was seen on.
func TestDockOnTwo(t *testing.T) {
	r := open(t, newKV())
	a, b := machine(u1, dock, m1), machine(u2, dock, m2)
	a.BootID, b.BootID = "1", "2"
	x, y := register(t, r, a).Node, register(t, r, b).Node
	if want := strings.ReplaceAll(dock, ":", "-"); x != want || y != want+"-2" {
		t.Errorf("IDs %s, %s", x, y)
	}
	if id := r.ByMAC(dock); id != "" {
		t.Errorf("the dock is %s", id)
	}
	if id := r.ByMAC(m2); id != y {
		t.Errorf("the second machine's own card is %q", id)
	}
}
