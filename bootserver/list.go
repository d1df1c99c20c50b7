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
	fmt.Fprintln(w, "NODE\tGROUP\tADDRESS\tASSIGNMENT\tSTARTS BY\tSTATE\tPROGRESS\tSEEN") // tabwriter keeps its error for Flush
	for _, n := range nodes {
		cells := []string{n.ID, n.Group, n.Inventory.Address, assignmentWords(n), string(n.Start), stateWords(n), progressWords(n.Progress), seenWords(n.LastSeen)}
		for i, c := range cells {
			cells[i] = strings.Map(printable, c)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
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
	s := fmt.Sprintf("%s %s, %s, then %s", ref, a.Disk, when, a.Then)
	if n.Inherited {
		s += " (the group's)"
	}
	return s
}

// stateWords is the last step, and why nothing follows it where that is so.
func stateWords(n api.Node) string {
	s := n.State
	if n.Capture != "" {
		s += ", to be captured as " + n.Capture
	}
	if n.Maintenance {
		s += ", in maintenance"
	}
	if n.Failures > 1 {
		s += fmt.Sprintf(", attempt %d", n.Failures)
	}
	return s
}

func progressWords(p *api.Progress) string {
	if p == nil || p.Total <= 0 {
		return ""
	}
	return p.String()
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
