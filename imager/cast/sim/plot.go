package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"huck/imager/cast/casttest"
)

// panel is one diagram of the plot, with logarithmic axes.
type panel struct {
	left            float64 // of the diagram's area, in pixels
	title, ordinate string
	low, high       float64
	base            float64 // is taken off before the logarithm
	ticks           []float64
	measured        func(c *cell) float64
	theory          func(c *cell) float64
}

// Pixels.
const (
	plotWidth, plotHeight  = 1040.0, 484.0
	areaTop, areaBottom    = 62.0, 404.0
	areaWidth              = 370.0
	firstPanel, panelsGap  = 66.0, 520.0
	labelGap, leastSpacing = 8.0, 15.0
)

// colors of the loss rates, least first; told apart also without colours by the labels at the lines' ends.
func colors() []string {
	return []string{"#6b7280", "#0e7490", "#2563eb", "#7c3aed", "#c2410c", "#b91c1c"}
}

// plot draws the runs with independent losses.
func (m *matrix) plot() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="system-ui, sans-serif" font-size="13" fill="#1f2937">`+"\n",
		plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="#ffffff"/>`+"\n", plotWidth, plotHeight)
	bytesSent := panel{
		left: firstPanel, title: "Bytes sent", ordinate: "IP bytes / bytes of the encoded image",
		low: 1.04, high: 2.6, base: 1, ticks: []float64{1.05, 1.1, 1.2, 1.5, 2, 2.5},
		measured: (*cell).ratio,
		theory:   func(c *cell) float64 { return c.bound256 * casttest.HeaderFactor },
	}
	time := panel{
		left: firstPanel + panelsGap, title: "Time until the last receiver is complete", ordinate: "time / ideal time of the image, once",
		low: 0.97, high: 4, base: 0.9, ticks: []float64{1, 1.1, 1.2, 1.5, 2, 3, 4, 6, 10},
		measured: (*cell).slowdown,
		theory:   func(c *cell) float64 { return c.bound256 },
	}
	for _, p := range []*panel{&bytesSent, &time} {
		p.grow(m.of("independent"))
		p.frame(&b, m.receivers)
		p.lines(&b, m)
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" fill="#6b7280">solid: simulated; dashed: the least that theory allows; losses independent, %g Mbit/s, image of %d chunks</text>`+"\n",
		firstPanel, plotHeight-12, rate/1e6, chunks)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// grow makes room for the highest values.
func (p *panel) grow(cells []*cell) {
	for _, c := range cells {
		p.high = max(p.high, 1.05*p.measured(c))
	}
}

// x is where a number of receivers is on the abscissa.
func (p *panel) x(n int, most int) float64 {
	return p.left + areaWidth*math.Log(float64(n))/math.Log(float64(max(most, 10)))
}

func (p *panel) y(v float64) float64 {
	at := func(v float64) float64 { return math.Log(max(v, p.low) - p.base) }
	return areaBottom - (areaBottom-areaTop)*(at(v)-at(p.low))/(at(p.high)-at(p.low))
}

// frame draws title, grid and axes.
func (p *panel) frame(b *bytes.Buffer, receivers []int) {
	most := receivers[len(receivers)-1]
	fmt.Fprintf(b, `<text x="%g" y="22" font-size="16" font-weight="600">%s</text>`+"\n", p.left, p.title)
	fmt.Fprintf(b, `<text x="%g" y="42" fill="#6b7280">%s</text>`+"\n", p.left, p.ordinate)
	for _, v := range p.ticks {
		if v > p.high {
			continue
		}
		fmt.Fprintf(b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#e5e7eb"/>`, p.left, p.left+areaWidth, p.y(v), p.y(v))
		fmt.Fprintf(b, `<text x="%g" y="%.1f" text-anchor="end" fill="#6b7280">%g</text>`+"\n", p.left-8, p.y(v)+4, v)
	}
	fmt.Fprintf(b, `<line x1="%g" x2="%g" y1="%g" y2="%g" stroke="#9ca3af"/>`+"\n", p.left, p.left+areaWidth, areaBottom, areaBottom)
	for _, n := range receivers {
		x := p.x(n, most)
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%g" y2="%g" stroke="#9ca3af"/>`, x, x, areaBottom, areaBottom+4)
		fmt.Fprintf(b, `<text x="%.1f" y="%g" text-anchor="middle" fill="#6b7280">%d</text>`+"\n", x, areaBottom+19, n)
	}
	fmt.Fprintf(b, `<text x="%g" y="%g" text-anchor="middle" fill="#6b7280">receivers</text>`+"\n", p.left+areaWidth/2, areaBottom+40)
}

// line is what is drawn for one loss rate.
type line struct {
	loss  float64
	color string
	cells []*cell
	label float64 // ordinate of its label
}

// lines draws a line for each loss rate, and the theory's.
func (p *panel) lines(b *bytes.Buffer, m *matrix) {
	most := m.receivers[len(m.receivers)-1]
	var all []*line
	for i, loss := range m.losses {
		cells := slices.DeleteFunc(m.of("independent"), func(c *cell) bool { return c.loss != loss })
		slices.SortFunc(cells, byReceivers)
		l := &line{loss: loss, color: colors()[i%len(colors())], cells: cells}
		l.label = p.y(p.measured(cells[len(cells)-1]))
		all = append(all, l)
		p.polyline(b, l, most, p.theory, `stroke-width="1.3" stroke-dasharray="5 4" opacity="0.75"`)
	}
	for _, l := range all {
		p.polyline(b, l, most, p.measured, `stroke-width="2.2" stroke-linejoin="round"`)
		for _, c := range l.cells {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s"/>`, p.x(c.receivers, most), p.y(p.measured(c)), l.color)
		}
		b.WriteString("\n")
	}
	spread(all)
	for _, l := range all {
		fmt.Fprintf(b, `<text x="%g" y="%.1f" fill="%s">%s lost</text>`+"\n", p.left+areaWidth+labelGap, l.label+4, l.color, percent(l.loss))
	}
}

func (p *panel) polyline(b *bytes.Buffer, l *line, most int, value func(*cell) float64, style string) {
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" %s points="`, l.color, style)
	for _, c := range l.cells {
		fmt.Fprintf(b, "%.1f,%.1f ", p.x(c.receivers, most), p.y(value(c)))
	}
	b.WriteString(`"/>` + "\n")
}

// spread moves labels that would overlap apart: from the lowest upwards, and
// if that leads out of the area, back down.
func spread(lines []*line) {
	slices.SortStableFunc(lines, func(a, b *line) int {
		if a.label != b.label {
			return int(math.Copysign(1, b.label-a.label))
		}
		return 0
	})
	for i := 1; i < len(lines); i++ {
		lines[i].label = min(lines[i].label, lines[i-1].label-leastSpacing)
	}
	for i := len(lines) - 1; i >= 0; i-- {
		floor := areaTop
		if i < len(lines)-1 {
			floor = lines[i+1].label + leastSpacing
		}
		lines[i].label = max(lines[i].label, floor)
	}
}
