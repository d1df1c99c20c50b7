package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"huck/imager/api"
)

const (
	// backTime is how soon a machine is at its network boot again if what it was
	// to start did not come up: a kernel that panics restarts it in seconds, a
	// watchdog in minutes. Whoever is gone for longer was up.
	backTime = 10 * time.Minute
	// lostKexecs in a row make a model one that is rebooted instead.
	lostKexecs = 2
	// lostReboots in a row leave a machine waiting for somebody to look: its
	// firmware starts the network and never the disk.
	lostReboots = 5
	// firmwareBoot stands for a BootID; no appliance's has a dot.
	firmwareBoot = ".firmware"
)

// left is a start of the machine's own system.
type left struct {
	// How is by kexec, or by a reboot of the firmware into its disk.
	How api.Then  `json:"how"`
	At  time.Time `json:"at"`
	// Script says that its boot ROM's script left it to its firmware.
	Script bool `json:"script,omitempty"`
}

// leave notes that the machine is being left, as its last event says.
func (r *record) leave(e api.Event, now time.Time) {
	r.Left = left{}
	toDisk := e.Message == api.ToDisk
	how := api.Then(e.Step)
	if how == api.ThenKexec || how == api.ThenReboot && (toDisk || r.own()) {
		// Any other reboot ends an installation, and may well lead back here.
		r.Left = left{How: how, At: now}
	}
	if how == api.ThenReboot && toDisk {
		r.Spent = true
	}
}

// back notes that the machine is at its network boot again, its boot ROM or the
// appliance, and returns what of interest that says.
func (r *record) back(now time.Time, rom bool) string {
	l, last := r.Left, r.Back
	r.Left, r.Back = left{}, now
	if l.Script && !rom {
		// Still the same boot: UEFI's next entry is the network by another ROM.
		l = left{}
	}
	if l.How == "" {
		// Its appliance, after its firmware; or somebody switched it on.
		if now.Sub(last) >= backTime {
			r.Lost = 0
		}
		return ""
	}
	away := now.Sub(l.At)
	if away >= backTime || l.How != r.LostBy {
		r.Lost, r.LostBy = 0, l.How
	}
	if away >= backTime {
		return ""
	}
	r.Lost++
	if r.Lost > 1 && l.How == api.ThenReboot { // its firmware does not do as it was told
		r.Spent = false
	}
	return fmt.Sprintf("back %v after its %s: the system on its disk did not stay up", away.Round(time.Second), l.How)
}

// hopeless tells whether kexec has led back here often enough.
func (r *record) hopeless() bool { return r.LostBy == api.ThenKexec && r.Lost >= lostKexecs }

// stranded tells whether reboots have.
func (r *record) stranded() bool { return r.LostBy == api.ThenReboot && r.Lost >= lostReboots }

// why says what is the matter with a stranded machine.
func (r *record) why() string {
	return fmt.Sprintf("%d starts of the system on the disk in a row came back here within %v: does it crash, or does the firmware start the network whatever it is told? Switch the machine off and on after that time, or assign again, to go on", r.Lost, backTime)
}

// boots is the part of update that a machine's return to the network boot has
// in common, whether its firmware asks or its appliance: what became of the
// last start, and how its own system is to be started from now on. It returns
// what is to be told.
func (r *Registry) boots(ctx context.Context, rec *record, now time.Time, rom bool) (startBy api.Then, tell []string, err error) {
	if said := rec.back(now, rom); said != "" {
		tell = append(tell, said)
	}
	model := modelOf(rec)
	if rec.hopeless() {
		if err := r.setModel(ctx, model, api.ThenReboot); err != nil {
			return "", nil, err
		}
		rec.Lost = 0
		tell = append(tell, fmt.Sprintf("kexec did not start its system %d times in a row: machines of model %q are rebooted into their disk from now on (bootserver model %s kexec undoes it)", lostKexecs, model, rec.ID))
	}
	return r.startBy(model), tell, nil
}

// AtFirmware is told that a network boot ROM asks for its script. It returns
// true where the machine is to boot its own disk, without our appliance: one
// that has nothing to do, and whose model kexec does not suit. Errors are the
// store's.
func (r *Registry) AtFirmware(ctx context.Context, mac string) (ownDisk bool, err error) {
	r.registering.Lock()
	defer r.registering.Unlock()
	n := r.byMAC(mac)
	if n == nil { // never seen, or one dock on many machines: the appliance will know
		return false, nil
	}
	now := time.Now()
	var tell []string
	rec, err := r.update(ctx, n, func(rec *record) error {
		ownDisk = false
		startBy, said, err := r.boots(ctx, rec, now, true)
		if err != nil {
			return err
		}
		tell = said
		rec.LastSeen = now
		rec.StartBy = startBy
		if rec.Maintenance || !rec.ownNext() || rec.startBy() != api.ThenReboot || rec.stranded() {
			return nil
		}
		ownDisk = true
		rec.decide(firmwareBoot, startBy)
		rec.Left = left{How: api.ThenReboot, At: now, Script: true}
		rec.State = "left to its own disk by the boot script"
		return nil
	})
	if err != nil {
		return false, err
	}
	n.seen(now, ownDisk)
	for _, s := range tell {
		r.say(rec, s)
	}
	if ownDisk {
		r.say(rec, "nothing to do: boots its own disk by its firmware")
	}
	return ownDisk, nil
}

// modelOf names a machine's model, or the machine where its firmware does not.
func modelOf(rec *record) string {
	if m := clean(rec.Inventory.Manufacturer + " " + rec.Inventory.Product); m != "" {
		return m
	}
	return rec.ID
}

// model is what the store keeps of a model that kexec does not suit, or did not.
type model struct {
	Model string    `json:"model"`
	Start api.Then  `json:"start"`
	Since time.Time `json:"since"`
}

// startBy is how machines of a model start the system on their disk.
func (r *Registry) startBy(name string) api.Then {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if m, ok := r.models[name]; ok {
		return m.Start
	}
	return api.ThenKexec
}

func (r *Registry) setModel(ctx context.Context, name string, start api.Then) error {
	m := model{Model: name, Start: start, Since: time.Now()}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("nodes: model %s: %v", name, err)
	}
	if err := r.store.Put(ctx, modelPrefix+name, b); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.models[name] = m
	return nil
}

// SetModel sets how machines of a node's model start the system on their disk
// from their next boot on. Errors wrap ErrNotFound or ErrInvalid or are the
// store's.
func (r *Registry) SetModel(ctx context.Context, id string, start api.Then) error {
	if start != api.ThenKexec && start != api.ThenReboot {
		return invalid("a machine's own system is started by kexec or reboot, not by %.40q", start)
	}
	n, err := r.find(id)
	if err != nil {
		return err
	}
	rec, err := r.update(ctx, n, func(rec *record) error {
		rec.Lost, rec.Left = 0, left{}
		rec.NoKexec = rec.NoKexec && start == api.ThenReboot
		return r.setModel(ctx, modelOf(rec), start)
	})
	if err == nil {
		r.say(rec, fmt.Sprintf("machines of model %q start the system on their disk by %s", modelOf(&rec), start))
	}
	return err
}
