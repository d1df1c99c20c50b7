package api

import (
	"encoding/json"
	"fmt"
	"time"

	"huck/imager/image"
)

// Paths of the boot server.
//
// For the appliance:
//
//	POST /v1/nodes                          Inventory → Registered
//	GET  /v1/nodes/NODE/assignment?after=N  → Assignment; held up to LongPoll while its Serial is still N
//	POST /v1/nodes/NODE/events              []Event → 204
//	GET  /v1/nodes/NODE/personality         → personal.Personality; holds private keys
//
// All but the first need the token of Registered.
//
// For operators, on the loopback interface only unless configured otherwise:
//
//	GET    /v1/nodes                        → []Node
//	PUT    /v1/nodes/NAME/assignment        AssignRequest → Assignment; NAME is a node's or a group's
//	DELETE /v1/nodes/NAME/assignment        → 204
//	PUT    /v1/nodes/NODE/capture           CaptureRequest → 204
//	DELETE /v1/nodes/NODE/capture           → 204
//	PUT    /v1/nodes/NAME/maintenance       MaintenanceRequest → 204
//	PUT    /v1/nodes/NODE/model             ModelRequest → 204
//	PUT    /v1/groups/GROUP                 GroupRequest → Group
//	GET    /v1/events?follow=1&node=NODE    → one Event a line
const (
	PathNodes  = "/v1/nodes"
	PathGroups = "/v1/groups"
	PathEvents = "/v1/events"
)

// Inventory is what a machine knows of itself when its appliance registers.
type Inventory struct {
	// MACs of all its Ethernet interfaces, the one that reached the server first.
	MACs []string `json:"macs"`
	// SystemUUID and Serial are SMBIOS type 1; empty where the firmware has none.
	SystemUUID   string `json:"system_uuid,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	// CPUs is the number of logical processors, Memory the RAM in bytes.
	CPUs   int   `json:"cpus"`
	Memory int64 `json:"memory"`
	// Firmware is "bios" or "uefi".
	Firmware string `json:"firmware"`
	Disks    []Disk `json:"disks"`
	// Address is the machine's own IP address.
	Address string `json:"address,omitempty"`
	// BootID is new at every start of the appliance.
	BootID string `json:"boot_id"`
	// Version is the appliance's.
	Version string `json:"version,omitempty"`
}

// Disk is what a machine tells of one of its disks; Rule matches on it.
type Disk struct {
	// Path is the device node; it can differ at every start.
	Path string `json:"path"`
	// Size and SectorSize (logical) are in bytes.
	Size       int64  `json:"size"`
	SectorSize int    `json:"sector_size"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Model      string `json:"model,omitempty"`
	// Transport is nvme, sata, sas, scsi, virtio, usb, mmc or empty.
	Transport  string `json:"transport,omitempty"`
	Rotational bool   `json:"rotational,omitempty"`
	// Removable, ReadOnly and Boot disks never qualify as a target. Boot is
	// the medium the appliance was booted from.
	Removable bool `json:"removable,omitempty"`
	ReadOnly  bool `json:"read_only,omitempty"`
	Boot      bool `json:"boot,omitempty"`
	// Contents is what stands on the disk, by partition; absent where nobody
	// looked.
	Contents []Content `json:"contents,omitempty"`
}

// Content is what stands in one partition of a disk, or on a disk without a
// partition table.
type Content struct {
	// Partition is its number; 0 is the whole disk.
	Partition int `json:"partition"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// PartUUID is the partition's own in a GPT.
	PartUUID string `json:"part_uuid,omitempty"`
	// Kind is ext4, vfat, LVM2_member, … or empty for what nobody knows.
	Kind string `json:"kind,omitempty"`
	// UUID and Label are the content's own; an LVM2 volume's label is its group.
	UUID  string `json:"uuid,omitempty"`
	Label string `json:"label,omitempty"`
}

// Registered answers a registration.
type Registered struct {
	// Node is the node's ID for the other paths.
	Node string `json:"node"`
	// Token authorises this boot of this node.
	Token string `json:"token"`
	// Known is false if no operator has ever assigned anything to the node.
	Known bool `json:"known"`
}

// Action is what a node is to do now.
type Action string

// The actions.
const (
	// ActionWait: do nothing and ask again.
	ActionWait Action = "wait"
	// ActionInstall: put the image on the target disk, then Then.
	ActionInstall Action = "install"
	// ActionBoot: start the system on the target disk, by kexec or by a reboot
	// as Then says.
	ActionBoot Action = "boot"
	// ActionCapture: make an image of the disk in the server's store.
	ActionCapture Action = "capture"
	// ActionShell: maintenance. Write nothing, and have a shell on the console.
	ActionShell Action = "shell"
)

// Then is what a node does after an installation.
type Then string

// The ways to go on.
const (
	ThenKexec    Then = "kexec"
	ThenReboot   Then = "reboot"
	ThenPoweroff Then = "poweroff"
	ThenWait     Then = "wait"
)

// ParseThen reads one of kexec, reboot, poweroff, wait.
func ParseThen(s string) (Then, error) {
	switch t := Then(s); t {
	case ThenKexec, ThenReboot, ThenPoweroff, ThenWait:
		return t, nil
	}
	return "", fmt.Errorf("api: %q is none of kexec, reboot, poweroff, wait", s)
}

// What to do where an ID or name that the image brings is on another disk of
// the machine, too.
const (
	// DuplicatesWarn says so and goes on; it is what empty means.
	DuplicatesWarn = "warn"
	// DuplicatesRefuse does not touch the target.
	DuplicatesRefuse = "refuse"
)

// InstallOptions is how an image is to be put on the target.
type InstallOptions struct {
	// Grow makes the last partition and its filesystem take a larger disk.
	Grow bool `json:"grow,omitempty"`
	// Confirm makes a person at the console type the target's serial number
	// first.
	Confirm bool `json:"confirm,omitempty"`
	// Duplicates is DuplicatesWarn or DuplicatesRefuse.
	Duplicates string `json:"duplicates,omitempty"`
}

// Check refuses what this program does not know.
func (o InstallOptions) Check() error {
	switch o.Duplicates {
	case "", DuplicatesWarn, DuplicatesRefuse:
		return nil
	}
	return fmt.Errorf("api: duplicates %.40q is neither warn nor refuse", o.Duplicates)
}

// AssignRequest is what an operator asks for.
type AssignRequest struct {
	Ref       string `json:"ref"`
	Disk      string `json:"disk"` // a Rule
	EveryBoot bool   `json:"every_boot"`
	Then      Then   `json:"then"`
	// Tries is how many installations in a row may fail before the node stops;
	// 0 is DefaultTries.
	Tries int `json:"tries,omitempty"`
	InstallOptions
	// Personalise is a personal.Document; empty leaves the image as it is.
	Personalise json.RawMessage `json:"personalise,omitempty"`
}

// DefaultTries is how many installations of an assignment may fail in a row.
const DefaultTries = 3

// GroupRequest puts nodes into a group, or takes them out of it. A node is in
// one group at most.
type GroupRequest struct {
	Nodes  []string `json:"nodes"`
	Remove bool     `json:"remove,omitempty"`
}

// Group is a group of nodes.
type Group struct {
	Name string `json:"name"`
	// Nodes are the IDs of its members, sorted.
	Nodes []string `json:"nodes"`
}

// CaptureRequest asks for an image of a node's disk, once. It comes before the
// node's assignment, which stays.
type CaptureRequest struct {
	// Name is the image's; its next version is made.
	Name string `json:"name"`
	Disk string `json:"disk"` // a Rule
	// Then is what the node does when its image is complete.
	Then Then `json:"then"`
	// Force takes a filesystem that was not shut down cleanly all the same;
	// SkipBad puts zeros where the disk cannot be read, and lists them.
	Force   bool `json:"force,omitempty"`
	SkipBad bool `json:"skip_bad,omitempty"`
}

// MaintenanceRequest puts a node into maintenance, or ends that.
type MaintenanceRequest struct {
	On bool `json:"on"`
}

// ModelRequest sets how machines of a node's model start the system on their
// disk: ThenKexec or ThenReboot.
type ModelRequest struct {
	Start Then `json:"start"`
}

// Assignment tells a node what to do.
type Assignment struct {
	// Serial changes whenever the answer does; 0 is "none yet".
	Serial uint64 `json:"serial"`
	Action Action `json:"action"`
	// Ref is the full reference, digest included, resolved when assigned.
	Ref       string   `json:"ref,omitempty"`
	Digest    image.ID `json:"digest,omitzero"`
	Disk      string   `json:"disk,omitempty"`
	EveryBoot bool     `json:"every_boot,omitempty"`
	// Then is how to go on after an installation; of ActionBoot it is how to
	// start the system on the disk, ThenKexec or ThenReboot.
	Then Then `json:"then,omitempty"`
	// Why tells people why a node waits in spite of an assignment.
	Why string `json:"why,omitempty"`
	InstallOptions
	// Capture is what ActionCapture asks for.
	Capture *CaptureRequest `json:"capture,omitempty"`
	// Personalise is set if the node is to fetch its personality and apply it.
	Personalise bool `json:"personalise,omitempty"`
}

// Node is what the server knows of a machine.
type Node struct {
	ID        string    `json:"id"`
	Inventory Inventory `json:"inventory"`
	// Known is false for a machine nobody has assigned anything to.
	Known bool `json:"known"`
	// Group is the group that it is in, if any; Inherited tells that its
	// assignment is the group's.
	Group      string      `json:"group,omitempty"`
	Assignment *Assignment `json:"assignment,omitempty"`
	Inherited  bool        `json:"inherited,omitempty"`
	// Capture is the name of the image that it is to be captured as.
	Capture string `json:"capture,omitempty"`
	// Maintenance tells that it is kept in the rescue shell.
	Maintenance bool `json:"maintenance,omitempty"`
	// Failures counts installations in a row that were begun and not reported
	// complete, the present one included.
	Failures int `json:"failures,omitempty"`
	// Start is how machines of this model start the system on their disk:
	// ThenKexec, or ThenReboot where kexec was seen to lead nowhere.
	Start Then `json:"start"`
	// State is the last step and how it went, e.g. "receive running".
	State    string    `json:"state"`
	Progress *Progress `json:"progress,omitempty"`
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// EventType says what an event tells.
type EventType string

// The event types.
const (
	// EventStep: a step of the appliance began, ended or failed.
	EventStep EventType = "step"
	// EventProgress: bytes moved; kept in memory only.
	EventProgress EventType = "progress"
	// EventVerified: the read-back of the disk equals the map; Data is Verified.
	EventVerified EventType = "verified"
	// EventInstalled: an installation is complete; Data is the done line of
	// `imager receive` (Result).
	EventInstalled EventType = "installed"
	// EventCaptured: an image is complete and tagged; Data is the done line of
	// `imager capture`.
	EventCaptured EventType = "captured"
	// EventLog: a log record of the appliance.
	EventLog EventType = "log"
	// EventNode: the server's own words about a node (seen, assigned, …).
	EventNode EventType = "node"
	// EventServer: the server's own words about itself.
	EventServer EventType = "server"
)

// StepState is how a step stands.
type StepState string

// The states of a step.
const (
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
	// StepLeaving is the last that is heard of a boot: the step's name says how
	// the machine is left (kexec, reboot, poweroff).
	StepLeaving StepState = "leaving"
)

// ToDisk is the message of StepLeaving where the firmware was told to start the
// disk, this once, whatever comes first in its order.
const ToDisk = "into its disk"

// GivenUp is the message of a step's failure that is its last.
const GivenUp = "given up"

// Event is something that happened, as nodes report it and `bootserver events`
// prints it, one a line.
type Event struct {
	Time  time.Time `json:"time"`
	Node  string    `json:"node,omitempty"`
	Boot  string    `json:"boot,omitempty"` // BootID
	Type  EventType `json:"type"`
	Step  string    `json:"step,omitempty"`
	State StepState `json:"state,omitempty"`
	// Seconds is how long the step took.
	Seconds float64 `json:"seconds,omitempty"`
	Message string  `json:"message,omitempty"`
	// Error names the cause; empty if nothing failed.
	Error    string          `json:"error,omitempty"`
	Progress *Progress       `json:"progress,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Verified is the Data of EventVerified.
type Verified struct {
	Digest  image.ID `json:"digest"`
	Regions int      `json:"regions"`
	// Differ counts regions whose content is not the image's.
	Differ int `json:"differ"`
}

// Result is the line that install and receive end with (DESIGN.md section 12).
type Result struct {
	Event         string           `json:"event"` // "done"
	Image         string           `json:"image"` // "@DIGEST"
	ImageBytes    int64            `json:"image_bytes"`
	EncodedBytes  int64            `json:"encoded_bytes"`
	Received      map[string]int64 `json:"received"`
	RepairBytes   int64            `json:"repair_bytes"`
	ChunksInPlace int              `json:"chunks_in_place"`
	WrittenBytes  int64            `json:"written_bytes"`
	Seconds       float64          `json:"seconds"`
	// Grown is nil unless growing was asked for.
	Grown *Grown `json:"grown,omitempty"`
}

// Grown tells what became of the image's last partition, or of the filesystem
// that it is, where it was to take all the room. Sizes are in bytes.
type Grown struct {
	// Partition is its number, 0 where there is no partition table.
	Partition int `json:"partition"`
	// Content is what the partition holds, as in the manifest.
	Content string `json:"content,omitempty"`
	// From is the partition's size in the image, To its size now.
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Filesystem is the filesystem's size now; absent if it was left.
	Filesystem int64 `json:"filesystem,omitempty"`
	// Left says why the partition or what is in it stays as it is.
	Left string `json:"left,omitempty"`
}
