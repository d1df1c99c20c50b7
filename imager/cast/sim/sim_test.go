package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"huck/imager/cast/casttest"
)

// reduced is the matrix with up to 100 receivers, one seed each and a quarter
// of the chunks.
func reduced() *matrix {
	m := newMatrix(100)
	for _, c := range m.cells {
		c.trials = c.trials[:1]
		c.trials[0].Chunks = chunks / 4
	}
	return m
}

// TestMatrix: every receiver ends complete and exact, and the bytes stay close
// to what theory allows.
func TestMatrix(t *testing.T) {
	m := reduced()
	if err := runAll(t.Context(), io.Discard, m.trials()); err != nil {
		t.Fatal(err)
	}
	for _, c := range m.cells {
		if c.loss == 0.30 && c.kind != "independent" && c.kind != "shared" {
			continue // 256 symbol numbers are too few, and there is no bound for it
		}
		// Few chunks vary more than the means that the bounds are, those that
		// losses in bursts hit most.
		slack := 1.06
		if c.kind == "bursty" {
			slack = 1.12
		}
		if bar := slack * c.bound256 * casttest.HeaderFactor; c.ratio() > bar {
			t.Errorf("%s: %.3f times the bytes, want at most %.3f", c.trials[0].Name, c.ratio(), bar)
		}
	}
	plot := m.plot()
	if err := xml.Unmarshal(plot, new(struct{})); err != nil {
		t.Errorf("the plot: %v", err)
	}
	if n := bytes.Count(plot, []byte("<polyline")); n != 4*len(m.losses) {
		t.Errorf("%d lines in the plot, want one measured and one of theory in two panels for %d loss rates", n, len(m.losses))
	}
	if bytes.Contains(plot, []byte("NaN")) || bytes.Contains(plot, []byte("Inf")) {
		t.Error("the plot has points that are nowhere")
	}
	text := string(report(m, nil))
	for _, k := range m.kinds {
		if !strings.Contains(text, "Losses: "+k.name) {
			t.Errorf("the report has no table of %s losses", k.name)
		}
	}
}

// TestFaults: every receiver ends complete and exact whatever happens.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	faults := newFaults()
	for _, f := range faults {
		f.Chunks = min(f.Chunks, 256) // 64 MiB
	}
	if err := runAll(t.Context(), io.Discard, trialsOf(faults)); err != nil {
		t.Fatal(err)
	}
	text := string(report(reduced(), faults))
	for _, f := range faults {
		if !strings.Contains(text, f.what) {
			t.Errorf("the report has no row %q", f.what)
		}
	}
}

// TestFailureIsTold: a run that does not end names itself.
func TestFailureIsTold(t *testing.T) {
	c := newCell(kinds()[0], 0.01, 2, 1)
	c.trials = c.trials[:1]
	c.trials[0].Limit = time.Millisecond
	err := runAll(t.Context(), io.Discard, c.trials)
	if err == nil || !strings.Contains(err.Error(), "2 receivers, 1 % independent, seed 100") {
		t.Errorf("error %v", err)
	}
}

// TestRepeatable: the same seed gives the same figures.
func TestRepeatable(t *testing.T) {
	c := newCell(kinds()[3], 0.05, 20, 1)
	first, err := c.trials[0].Run()
	second, err2 := c.trials[0].Run()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if first.Bytes != second.Bytes || first.Time != second.Time || first.Sender != second.Sender {
		t.Errorf("%+v, then %+v", first, second)
	}
}

func TestSpread(t *testing.T) {
	lines := []*line{{label: 100}, {label: 101}, {label: areaTop}, {label: areaTop + 1}}
	spread(lines)
	for i := 1; i < len(lines); i++ {
		if lines[i-1].label-lines[i].label < leastSpacing || lines[i].label < areaTop {
			t.Errorf("labels at %.0f and %.0f", lines[i-1].label, lines[i].label)
		}
	}
}

// TestDocuments: the figures in the tree are of the matrix as it is planned.
func TestDocuments(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "SIMULATION.md"))
	if err != nil {
		t.Fatalf("%v: make sim-cast writes it", err)
	}
	for _, c := range newMatrix(5000).cells {
		if !strings.Contains(string(text), percent(c.loss)+" | ") {
			t.Errorf("SIMULATION.md has no row for %s: make sim-cast writes it", percent(c.loss))
		}
	}
	for _, f := range newFaults() {
		if !strings.Contains(string(text), f.what) {
			t.Errorf("SIMULATION.md has no row %q: make sim-cast writes it", f.what)
		}
	}
}
