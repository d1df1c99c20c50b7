package nodes

import (
	"fmt"
	"time"

	"huck/imager/api"
	"huck/imager/image"
)

// record is what the store keeps of a node.
type record struct {
	ID        string        `json:"id"`
	Inventory api.Inventory `json:"inventory"`
	FirstSeen time.Time     `json:"first_seen,omitzero"`
	LastSeen  time.Time     `json:"last_seen,omitzero"`
	// Known is set by the first assignment and stays.
	Known bool `json:"known,omitempty"`
	// State is the last step and how it went.
	State string `json:"state,omitempty"`

	// Version numbers what the node may be told: it changes whenever an
	// operator changes his mind. Serial numbers the assignments alone, and
	// their removals.
	Version uint64 `json:"version,omitempty"`
	Serial  uint64 `json:"serial,omitempty"`
	// Own is the node's own assignment, which beats its group's.
	Own *want `json:"want,omitempty"`
	// Group is the group that the node is in. Inherited is a copy of that
	// group's assignment, GroupSerial says which one; so a node's record alone
	// decides what the node does, and a change of a group that was cut short is
	// completed at the next start (Registry.reconcile).
	Group       string `json:"group,omitempty"`
	Inherited   *want  `json:"inherited,omitempty"`
	GroupSerial uint64 `json:"group_serial,omitempty"`
	// Index is the node's number in its group, from 0, given when it joined.
	Index int `json:"index,omitempty"`
	// Maintenance keeps the node in the rescue shell.
	Maintenance bool `json:"maintenance,omitempty"`

	// Capture is an order to capture the disk, which comes before every
	// assignment and goes when it has been carried out. Captured is the boot that
	// did: it is not for anything else any more.
	Capture  *order `json:"capture,omitempty"`
	Captured string `json:"captured,omitempty"`

	// Boot is the BootID of the latest registration; firmwareBoot after
	// a start of the machine's own system that no appliance saw.
	Boot string `json:"boot,omitempty"`
	// OwnDisk is the boot that is to start the machine's own system, and StartBy
	// how machines of its model do that (kexec or reboot). Decided once a boot, at
	// its registration, see decide.
	OwnDisk string   `json:"own_disk,omitempty"`
	StartBy api.Then `json:"start_by,omitempty"`
	// Started is the installation last handed out, StartedDisk its disk rule and
	// StartedThen how it was to end; Finished is the one last reported complete.
	Started     mark     `json:"started,omitzero"`
	StartedDisk string   `json:"started_disk,omitempty"`
	StartedThen api.Then `json:"started_then,omitempty"`
	Finished    mark     `json:"finished,omitzero"`
	// Settled is the disk rule of a complete installation: what stands there
	// can be booted. Empty while an installation is under way.
	Settled string `json:"settled,omitempty"`

	// Tries counts the installations of this assignment handed out since the
	// last one that was complete; LastError is what ended the last of them.
	Tries     int    `json:"tries,omitempty"`
	LastError string `json:"last_error,omitempty"`

	// Spent tells that the reboot that ended the installation did not come by
	// here: the firmware started the disk.
	Spent bool `json:"spent,omitempty"`
	// NoKexec tells that the system on the disk has no kernel that we can start.
	NoKexec bool `json:"no_kexec,omitempty"`
	// Left is the last start of the machine's own system, Lost how many in a row
	// by LostBy led straight back to us, and Back when the machine was last at
	// its network boot. See back.
	Left   left      `json:"left,omitzero"`
	Lost   int       `json:"lost,omitempty"`
	LostBy api.Then  `json:"lost_by,omitempty"`
	Back   time.Time `json:"back,omitzero"`
}

// order is an operator's order to capture; Serial tells it from the next.
type order struct {
	api.CaptureRequest
	Serial uint64 `json:"serial"`
}

// want is an operator's wish, with the reference resolved.
type want struct {
	Ref       string   `json:"ref"`
	Digest    image.ID `json:"digest"`
	Disk      string   `json:"disk"`
	EveryBoot bool     `json:"every_boot,omitempty"`
	Then      api.Then `json:"then"`
	// Tries is how many installations in a row may fail.
	Tries int `json:"tries,omitempty"`
	api.InstallOptions
	// Document names the personalisation, see documentKey; empty if there is none.
	Document string `json:"document,omitempty"`
}

// String tells it in a few words.
func (w *want) String() string {
	when := "once"
	if w.EveryBoot {
		when = "at every boot"
	}
	return fmt.Sprintf("%s, disk %q, %s, then %s", w.Ref, w.Disk, when, w.Then)
}

// limit is Tries, or the default for an assignment of an older server.
func (w *want) limit() int {
	if w.Tries == 0 {
		return api.DefaultTries
	}
	return w.Tries
}

// mark names one carrying out of an assignment.
type mark struct {
	Serial uint64 `json:"serial"`
	Boot   string `json:"boot"`
}

// want is the assignment in force, nil if there is none.
func (r *record) want() *want {
	if r.Own != nil {
		return r.Own
	}
	return r.Inherited
}

// order is a change by an operator. Where it changes the assignment in force,
// that is a new one: it has not failed yet, and a boot that was for the
// machine's own system is no longer, should it still be waiting.
func (r *record) order(change func()) {
	before := r.want()
	change()
	r.Version++
	if r.want() == before { // the same one, not just an equal one
		return
	}
	r.Serial++
	r.OwnDisk, r.Tries, r.LastError, r.Lost = "", 0, "", 0
	if r.want() != nil {
		r.Known = true
	}
}

// ownNext tells whether the next boot is for the machine's own system:
//   - the assignment "once" has been carried out, or
//   - it is "every boot" and this boot is the reboot that ended the
//     installation (--then reboot); else the machine would go round in circles, or
//   - there is no assignment (any more), and what we installed is complete.
func (r *record) ownNext() bool {
	w := r.want()
	done := w != nil && r.Finished.Serial == r.Serial
	switch {
	case w == nil:
		return r.Settled != ""
	case w.EveryBoot:
		return done && r.StartedThen == api.ThenReboot && r.Finished.Boot == r.Boot && !r.Spent
	}
	return done
}

// decide settles, at the registration of a new boot, whether that boot is for
// the machine's own system. startBy is how machines of its model start that.
func (r *record) decide(boot string, startBy api.Then) {
	own := r.ownNext()
	r.OwnDisk, r.StartBy = "", startBy
	if own {
		r.OwnDisk = boot
	}
	r.Boot = boot
}

// startBy is how this machine starts the system on its disk.
func (r *record) startBy() api.Then {
	if r.NoKexec {
		return api.ThenReboot
	}
	return r.StartBy
}

// own tells whether this boot is for the machine's own system.
func (r *record) own() bool { return r.OwnDisk != "" && r.OwnDisk == r.Boot }

// assignment is what the node is to do in its present boot.
func (r *record) assignment() api.Assignment {
	a := api.Assignment{Serial: r.Version, Action: api.ActionWait}
	w := r.want()
	if w != nil {
		a.Ref, a.Digest, a.Disk, a.EveryBoot, a.Then = w.Ref, w.Digest, w.Disk, w.EveryBoot, w.Then
		a.InstallOptions = w.InstallOptions
		a.Personalise = w.Document != ""
	}
	switch {
	case r.Maintenance:
		a.Action = api.ActionShell
	case r.Capture != nil:
		return api.Assignment{Serial: r.Version, Action: api.ActionCapture, Disk: r.Capture.Disk, Then: r.Capture.Then, Capture: &r.Capture.CaptureRequest}
	case r.Captured != "" && r.Captured == r.Boot:
	case r.own():
		if w == nil {
			a.Disk = r.Settled
		}
		a.Then = r.startBy()
		if r.stranded() {
			a.Why = r.why()
			break
		}
		a.Action = api.ActionBoot
	case w != nil && !w.EveryBoot && r.Finished.Serial == r.Serial: // once is once, whatever happened since
	case w != nil && r.Finished != (mark{r.Serial, r.Boot}):
		if r.Tries >= w.limit() && r.Started != (mark{r.Serial, r.Boot}) {
			a.Why = r.exhausted()
			break
		}
		if r.stranded() && r.Finished.Serial == r.Serial { // round and round, with nothing failing
			a.Why = r.why()
			break
		}
		a.Action = api.ActionInstall
		if a.Then == api.ThenKexec && r.StartBy == api.ThenReboot {
			a.Then = api.ThenReboot
		}
	}
	return a
}

// exhausted says why an assignment is not tried any more.
func (r *record) exhausted() string {
	last := r.LastError
	if last == "" {
		last = "nothing was heard of it"
	}
	return fmt.Sprintf("%d installations in a row did not complete (the last: %s); assign it again to go on", r.Tries, last)
}

// start notes that the installation has been handed out. From now on the disk
// is not to be relied on.
func (r *record) start() {
	a := r.assignment()
	r.Started, r.StartedDisk, r.StartedThen = mark{r.Serial, r.Boot}, a.Disk, a.Then
	r.Settled, r.NoKexec, r.Spent = "", false, false
	r.Tries++
	r.LastError = ""
}

// finish notes that the installation handed out to this boot is complete. If
// the assignment is another one by now, that one is still to be done. It
// reports false if there is nothing to finish: no installation, or done before.
func (r *record) finish() bool {
	if r.Started.Serial == 0 || r.Started.Boot != r.Boot || r.Finished == r.Started {
		return false
	}
	r.Finished, r.Settled = r.Started, r.StartedDisk
	if r.Started.Serial == r.Serial {
		r.Tries, r.LastError = 0, ""
	}
	return true
}
