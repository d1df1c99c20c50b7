package nodes

import (
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

	// Serial numbers the assignments, and their removals.
	Serial uint64 `json:"serial,omitempty"`
	// Want is the assignment; nil if there is none.
	Want *want `json:"want,omitempty"`

	// Boot is the BootID of the latest registration.
	Boot string `json:"boot,omitempty"`
	// OwnDisk is the boot that is to start the machine's own system. Decided
	// once a boot, at its registration, see decide.
	OwnDisk string `json:"own_disk,omitempty"`
	// Started is the installation last handed out, and StartedDisk its disk
	// rule; Finished is the one last reported complete.
	Started     mark   `json:"started,omitzero"`
	StartedDisk string `json:"started_disk,omitempty"`
	Finished    mark   `json:"finished,omitzero"`
	// Settled is the disk rule of a complete installation: what stands there
	// can be booted. Empty while an installation is under way.
	Settled string `json:"settled,omitempty"`
}

// want is an operator's wish, with the reference resolved.
type want struct {
	Ref       string   `json:"ref"`
	Digest    image.ID `json:"digest"`
	Disk      string   `json:"disk"`
	EveryBoot bool     `json:"every_boot,omitempty"`
	Then      api.Then `json:"then"`
	api.InstallOptions
}

// mark names one carrying out of an assignment.
type mark struct {
	Serial uint64 `json:"serial"`
	Boot   string `json:"boot"`
}

// decide settles, at the registration of a new boot, whether that boot is for
// the machine's own system:
//   - the assignment "once" has been carried out, or
//   - it is "every boot" and this boot is the reboot that ended the
//     installation (--then reboot); else the machine would go round in circles, or
//   - there is no assignment (any more), and what we installed is complete.
func (r *record) decide(boot string) {
	done := r.Want != nil && r.Finished.Serial == r.Serial
	var own bool
	switch {
	case r.Want == nil:
		own = r.Settled != ""
	case r.Want.EveryBoot:
		own = done && r.Want.Then == api.ThenReboot && r.Finished.Boot == r.Boot
	default:
		own = done
	}
	r.OwnDisk = ""
	if own {
		r.OwnDisk = boot
	}
	r.Boot = boot
}

// assignment is what the node is to do in its present boot.
func (r *record) assignment() api.Assignment {
	a := api.Assignment{Serial: r.Serial, Action: api.ActionWait}
	if w := r.Want; w != nil {
		a.Ref, a.Digest, a.Disk, a.EveryBoot, a.Then = w.Ref, w.Digest, w.Disk, w.EveryBoot, w.Then
		a.InstallOptions = w.InstallOptions
	}
	switch {
	case r.OwnDisk != "" && r.OwnDisk == r.Boot:
		a.Action = api.ActionBoot
		if r.Want == nil {
			a.Disk = r.Settled
		}
	case r.Want != nil && r.Finished != (mark{r.Serial, r.Boot}):
		a.Action = api.ActionInstall
	}
	return a
}

// start notes that the installation has been handed out. From now on the disk
// is not to be relied on.
func (r *record) start() {
	r.Started, r.StartedDisk = mark{r.Serial, r.Boot}, r.Want.Disk
	r.Settled = ""
}

// finish notes that the installation handed out to this boot is complete. If
// the assignment is another one by now, that one is still to be done. It
// reports false if there is nothing to finish: no installation, or done before.
func (r *record) finish() bool {
	if r.Started.Serial == 0 || r.Started.Boot != r.Boot || r.Finished == r.Started {
		return false
	}
	r.Finished, r.Settled = r.Started, r.StartedDisk
	return true
}

// assign sets a wish, nil for none. A boot that was for the machine's own
// system is no longer, should it still be waiting.
func (r *record) assign(w *want) {
	r.Serial++
	r.Want = w
	r.OwnDisk = ""
	if w != nil {
		r.Known = true
	}
}
