package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"huck/imager/api"
	"huck/imager/image"
)

type nodesCmd struct {
	serverFlag
}

// Run lists the nodes: a table, or with --json one api.Node a line.
func (c *nodesCmd) Run(a *app) error {
	var nodes []api.Node
	if err := c.call(a.ctx, http.MethodGet, nil, &nodes, api.PathNodes); err != nil {
		return err
	}
	if a.json {
		enc := json.NewEncoder(a.env.Stdout)
		for _, n := range nodes {
			if err := enc.Encode(n); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tADDRESS\tASSIGNMENT\tSTATE\tPROGRESS\tSEEN") // tabwriter keeps its error for Flush
	for _, n := range nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.ID, n.Inventory.Address, assignmentWords(n), n.State, progressWords(n.Progress), seenWords(n.LastSeen))
	}
	return w.Flush()
}

func assignmentWords(n api.Node) string {
	a := n.Assignment
	switch {
	case a == nil && n.Known:
		return "none"
	case a == nil:
		return "unknown, waits"
	}
	ref, _, _ := strings.Cut(a.Ref, "@")
	if ref == "" {
		ref = "@" + a.Digest.Short()
	}
	when := "once"
	if a.EveryBoot {
		when = "every boot"
	}
	return fmt.Sprintf("%s %s, %s, then %s", ref, a.Disk, when, a.Then)
}

func progressWords(p *api.Progress) string {
	if p == nil || p.Total <= 0 {
		return ""
	}
	return fmt.Sprintf("%d %%", min(100, (p.InPlace+p.Written)*100/p.Total))
}

func seenWords(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

type eventsCmd struct {
	serverFlag
	Follow bool   `short:"f" help:"Go on with what happens."`
	Node   string `placeholder:"NODE" help:"Only this node's."`
}

// maxEventLine bounds an event, in bytes.
const maxEventLine = 1 << 20

// Run prints events, as words or with --json as they are.
func (c *eventsCmd) Run(a *app) error {
	q := url.Values{}
	if c.Follow {
		q.Set("follow", "1")
	}
	if c.Node != "" {
		q.Set("node", c.Node)
	}
	body, err := c.open(a.ctx, http.MethodGet, q, nil, api.PathEvents)
	if err != nil {
		return err
	}
	defer body.Close()
	sc := bufio.NewScanner(body)
	sc.Buffer(nil, maxEventLine)
	for sc.Scan() {
		line := sc.Text()
		if !a.json {
			var e api.Event
			if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
				return fmt.Errorf("events: %w", err)
			}
			line = eventWords(e)
		}
		if _, err := fmt.Fprintln(a.env.Stdout, line); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	if c.Follow {
		return errors.New("events: the server ended the stream")
	}
	return nil
}

func eventWords(e api.Event) string {
	words := []string{e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Node, string(e.Type), e.Step, string(e.State)}
	if e.Seconds > 0 {
		words = append(words, fmt.Sprintf("%.1f s", e.Seconds))
	}
	words = append(words, e.Message)
	if e.Error != "" {
		words = append(words, "error: "+e.Error)
	}
	words = append(words, progressWords(e.Progress), string(e.Data))
	return strings.Join(strings.Fields(strings.Map(printable, strings.Join(words, " "))), " ")
}

// printable keeps a node's words from steering the operator's terminal.
func printable(r rune) rune {
	if r < ' ' || r >= 0x7f && r < 0xa0 {
		return ' '
	}
	return r
}

type assignCmd struct {
	serverFlag
	Node string `arg:"" help:"The machine: its ID as nodes lists it, or the MAC of one that was never seen."`
	Ref  string `arg:"" help:"The image: NAME[:VERSION], NAME[:VERSION]@DIGEST or @DIGEST; the latest version by default."`
	Disk string `required:"" placeholder:"RULE" help:"The target, comma-joined: only | serial=… | wwn=… | model=GLOB | size=10G..2T | transport=… | rotational=yes|no | smallest | largest."`

	Once      bool `xor:"when" required:"" help:"Install once; later boots start the installed system."`
	EveryBoot bool `xor:"when" required:"" help:"Install at every boot."`

	Then string `default:"kexec" placeholder:"WHAT" help:"After the installation: kexec (default), reboot, poweroff or wait."`

	Grow       bool   `help:"Let the last partition and its filesystem take all the room of a larger disk."`
	Confirm    bool   `help:"A person at the machine's console has to type the target's serial number first."`
	Duplicates string `default:"warn" placeholder:"WHAT" help:"Where a UUID, label or volume group of the image is on another disk of the machine, too: warn (default) or refuse."`
}

// Run assigns an image to a node.
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
	how := api.InstallOptions{Grow: c.Grow, Confirm: c.Confirm, Duplicates: c.Duplicates}
	if err := how.Check(); err != nil {
		return usageError{err}
	}
	var got api.Assignment
	req := api.AssignRequest{Ref: c.Ref, Disk: c.Disk, EveryBoot: c.EveryBoot, Then: then, InstallOptions: how}
	if err := c.call(a.ctx, http.MethodPut, req, &got, api.PathNodes, c.Node, "assignment"); err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(a.env.Stdout).Encode(got)
	}
	_, err = fmt.Fprintf(a.env.Stdout, "%s is assigned %s\n", c.Node, got.Ref)
	return err
}

type unassignCmd struct {
	serverFlag
	Node string `arg:"" help:"The machine's ID as nodes lists it."`
}

// Run takes a node's assignment away.
func (c *unassignCmd) Run(a *app) error {
	return c.call(a.ctx, http.MethodDelete, nil, nil, api.PathNodes, c.Node, "assignment")
}
