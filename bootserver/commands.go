package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"huck/imager/api"
	"huck/imager/image"
	"huck/imager/personal"
)

type assignCmd struct {
	serverFlag
	Node string `arg:"" name:"node|group" help:"The machine: its ID as nodes lists it, or the MAC of one that was never seen; or a group."`
	Ref  string `arg:"" help:"The image: NAME[:VERSION], NAME[:VERSION]@DIGEST or @DIGEST; the latest version by default."`
	Disk string `required:"" placeholder:"RULE" help:"The target, comma-joined: only | serial=… | wwn=… | model=GLOB | size=10G..2T | transport=… | rotational=yes|no | smallest | largest."`

	Once      bool `xor:"when" required:"" help:"Install once; later boots start the installed system."`
	EveryBoot bool `xor:"when" required:"" help:"Install at every boot."`

	Then  string `default:"kexec" placeholder:"WHAT" help:"After the installation: kexec (default), reboot, poweroff or wait."`
	Tries int    `default:"3" placeholder:"N" help:"Stop after N installations in a row that did not complete (${default})."`

	Grow        bool   `help:"Let the last partition and its filesystem take all the room of a larger disk."`
	Confirm     bool   `help:"A person at the machine's console has to type the target's serial number first."`
	Duplicates  string `default:"warn" placeholder:"WHAT" help:"Where a UUID, label or volume group of the image is on another disk of the machine, too: warn (default) or refuse."`
	Personalise string `placeholder:"FILE" help:"A JSON document that makes each machine's system its own (hostname, keys, network, files, scripts), see bootserver/PERSONALISE.md."`
}

// Run assigns an image to a node, or to a group.
func (c *assignCmd) Run(a *app) error {
	if _, err := image.ParseRef(c.Ref); err != nil {
		return usageError{err}
	}
	if _, err := api.ParseRule(c.Disk); err != nil {
		return usageError{err}
	}
	then, err := api.ParseThen(c.Then)
	if err != nil {
		return usageError{err}
	}
	if c.Tries < 1 {
		return usageError{fmt.Errorf("--tries %d: want 1 or more", c.Tries)}
	}
	how := api.InstallOptions{Grow: c.Grow, Confirm: c.Confirm, Duplicates: c.Duplicates}
	if err := how.Check(); err != nil {
		return usageError{err}
	}
	document, err := readDocument(c.Personalise)
	if err != nil {
		return usageError{err}
	}
	var got api.Assignment
	req := api.AssignRequest{Ref: c.Ref, Disk: c.Disk, EveryBoot: c.EveryBoot, Then: then, Tries: c.Tries, InstallOptions: how, Personalise: document}
	if err := c.call(a.ctx, http.MethodPut, req, &got, api.PathNodes, c.Node, "assignment"); err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(a.env.Stdout).Encode(got)
	}
	_, err = fmt.Fprintf(a.env.Stdout, "%s is assigned %s\n", c.Node, got.Ref)
	return err
}

// readDocument reads and checks the file that --personalise names, if any.
func readDocument(name string) (json.RawMessage, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err == nil {
		_, err = personal.Parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("--personalise %s: %w", name, err)
	}
	return b, nil
}

type unassignCmd struct {
	serverFlag
	Node string `arg:"" name:"node|group" help:"The machine's ID as nodes lists it, or a group."`
}

// Run takes a node's assignment away, or a group's.
func (c *unassignCmd) Run(a *app) error {
	return c.call(a.ctx, http.MethodDelete, nil, nil, api.PathNodes, c.Node, "assignment")
}

type captureCmd struct {
	serverFlag
	Node    string `arg:"" help:"The machine: its ID as nodes lists it, or the MAC of one that was never seen."`
	Name    string `placeholder:"NAME" help:"The image's name; its next version is made."`
	Disk    string `default:"only" placeholder:"RULE" help:"The disk, as for assign (${default})."`
	Then    string `default:"kexec" placeholder:"WHAT" help:"When the image is complete: kexec (default), reboot, poweroff or wait."`
	Force   bool   `help:"Take a filesystem that was not shut down cleanly all the same."`
	SkipBad bool   `help:"Go on at read errors; what cannot be read becomes zeros and is listed."`
	Cancel  bool   `help:"Take the order back."`
}

// Run orders an image of a node's disk: at once if its appliance waits, else at
// its next boot.
func (c *captureCmd) Run(a *app) error {
	if c.Cancel {
		return c.call(a.ctx, http.MethodDelete, nil, nil, api.PathNodes, c.Node, api.PathCapture)
	}
	if err := image.CheckName(c.Name); err != nil {
		return usageError{fmt.Errorf("--name: %w", err)}
	}
	if _, err := api.ParseRule(c.Disk); err != nil {
		return usageError{err}
	}
	then, err := api.ParseThen(c.Then)
	if err != nil {
		return usageError{err}
	}
	req := api.CaptureRequest{Name: c.Name, Disk: c.Disk, Then: then, Force: c.Force, SkipBad: c.SkipBad}
	return c.call(a.ctx, http.MethodPut, req, nil, api.PathNodes, c.Node, api.PathCapture)
}

type groupCmd struct {
	serverFlag
	Name   string   `arg:"" name:"group" help:"The group; it is made where there is none."`
	Nodes  []string `arg:"" optional:"" name:"node" help:"Machines: IDs as nodes lists them, or MACs of some that were never seen. Without any, the group's members are listed."`
	Remove bool     `help:"Take them out of the group."`
}

// Run puts nodes into a group, and prints who is in it then.
func (c *groupCmd) Run(a *app) error {
	if c.Remove && len(c.Nodes) == 0 {
		return usageError{errors.New("--remove: name the machines to take out of the group")}
	}
	var g api.Group
	if err := c.call(a.ctx, http.MethodPut, api.GroupRequest{Nodes: c.Nodes, Remove: c.Remove}, &g, api.PathGroups, c.Name); err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(a.env.Stdout).Encode(g)
	}
	for _, id := range g.Nodes {
		if _, err := fmt.Fprintln(a.env.Stdout, id); err != nil {
			return err
		}
	}
	return nil
}

type maintainCmd struct {
	serverFlag
	Node string `arg:"" name:"node|group" help:"The machine's ID as nodes lists it, or a group."`
	End  bool   `help:"End the maintenance: the machine goes on as it is assigned."`
}

// Run puts a node into maintenance, or ends that.
func (c *maintainCmd) Run(a *app) error {
	return c.call(a.ctx, http.MethodPut, api.MaintenanceRequest{On: !c.End}, nil, api.PathNodes, c.Node, "maintenance")
}

type modelCmd struct {
	serverFlag
	Node  string `arg:"" help:"A machine of that model: its ID as nodes lists it."`
	Start string `arg:"" enum:"kexec,reboot" help:"kexec, or reboot: by the machine's firmware."`
}

// Run sets how machines of a model start the system on their disk.
func (c *modelCmd) Run(a *app) error {
	return c.call(a.ctx, http.MethodPut, api.ModelRequest{Start: api.Then(c.Start)}, nil, api.PathNodes, c.Node, "model")
}
