package traffic

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The picture's measures, in pixels.
const (
	width    = 1000.0
	left     = 60.0 // of the plot
	right    = width - 20
	plot     = 260.0 // high
	line     = 16.0  // of text
	letter   = 7.0   // how wide one is, about, at the size of text here
	thinnest = 2.0   // a single failure is seen, however many answers there are
)

// Colours that people who confuse colours tell apart (Okabe and Ito), without the reds: red is failure.
var colours = []string{"#0072b2", "#e69f00", "#009e73", "#56b4e9", "#f0e442", "#cc79a7", "#7d5ba6", "#5b4a3f"}

const (
	failure = "#d00000"
	others  = "#999999" // the nodes for which there is no colour
)

// SVG draws the record: time goes to the right; upwards is how many attempts each node answered, in tenths of a second, and downwards
// how many failed, both when they began; vertical lines are the marks, and crosses the long-lived connections that broke.
func SVG(w io.Writer, r *Record) error {
	p := newPicture(r)
	p.draw()
	_, err := w.Write(p.text.Bytes())
	return err
}

type picture struct {
	*Record
	bucket   time.Duration
	names    []string // of the nodes, from the bottom
	answered [][]int  // by node and those below it, and bucket
	failed   []int    // by bucket
	scale    float64  // pixels per attempt
	top      float64  // of the plot
	zero     float64  // the y of no answers
	text     bytes.Buffer
}

func newPicture(r *Record) *picture {
	p := &picture{Record: r}
	// A long record has wider buckets, so that none is narrower than a pixel and the picture stays small.
	const tenth = 100 * time.Millisecond
	span := max(r.To.Sub(r.From), tenth)
	p.bucket = tenth * time.Duration(math.Ceil(float64(span)/float64(tenth)/(right-left)))
	buckets := int((span + p.bucket - 1) / p.bucket)

	for _, s := range r.Nodes() {
		p.names = append(p.names, s.Name)
	}
	if len(p.names) > len(colours) {
		p.names = append(p.names[:len(colours):len(colours)], "others")
	}
	p.failed = make([]int, buckets)
	p.answered = make([][]int, len(p.names))
	for i := range p.answered {
		p.answered[i] = make([]int, buckets)
	}
	for _, a := range r.Attempts {
		at := min(max(int(a.Began.Sub(r.From)/p.bucket), 0), buckets-1)
		if a.failed() {
			p.failed[at]++
			continue
		}
		node := slices.Index(p.names, a.Node)
		if node < 0 {
			node = len(p.names) - 1
		}
		for i := node; i < len(p.names); i++ { // it is below all of these
			p.answered[i][at]++
		}
	}
	return p
}

func (p *picture) colour(node int) string {
	if node < len(colours) {
		return colours[node]
	}
	return others
}

func (p *picture) draw() {
	labels, lanes := p.lanes()
	most, worst := 0, slices.Max(p.failed)
	if len(p.answered) > 0 {
		most = slices.Max(p.answered[len(p.answered)-1])
	}
	p.scale = plot / float64(max(most+worst, 1))
	p.top = line*2 + line*float64(lanes)
	p.zero = p.top + p.scale*float64(most)
	bottom := p.zero
	if worst > 0 {
		bottom += max(p.scale*float64(worst), line) // there is room for a number
	}
	height := bottom + 2.5*line

	fmt.Fprintf(&p.text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%[1]s" height="%[2]s" role="img" font-family="sans-serif" font-size="12">
<title>%s</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
`, number(width), number(height), escape(p.title()))
	p.legend()
	for i := len(p.names) - 1; i >= 0; i-- { // the lower ones hide what is theirs
		p.area(p.colour(i), p.answered[i], func(n int) float64 { return p.zero - p.scale*float64(n) })
	}
	p.area(failure, p.failed, func(n int) float64 {
		if n == 0 {
			return p.zero
		}
		return p.zero + max(p.scale*float64(n), thinnest)
	})
	p.axes(most, worst, bottom)
	for i, m := range p.Marks {
		fmt.Fprintf(&p.text, `<path d="M%s %sV%s" stroke="#333333" stroke-dasharray="4 3"/>`+"\n",
			number(p.x(m.At)), number(labels[i].y+4), number(bottom))
	}
	// The labels interrupt the lines that they cross.
	p.text.WriteString(`<g stroke="#ffffff" stroke-width="4" paint-order="stroke">` + "\n")
	for i, m := range p.Marks {
		p.write(labels[i].x, labels[i].y, labels[i].anchor, "#111111", m.What)
	}
	p.text.WriteString("</g>\n")
	if broken := p.Broken(); len(broken) > 0 {
		var crosses strings.Builder
		for _, c := range broken {
			fmt.Fprintf(&crosses, "M%s %sl6 6m0-6l-6 6", number(p.x(c.Broke)-3), number(p.zero-3))
		}
		fmt.Fprintf(&p.text, `<path d="%s" fill="none" stroke="#111111" stroke-width="1.5"/>`+"\n", crosses.String())
	}
	p.text.WriteString("</svg>\n")
}

func (p *picture) title() string {
	return fmt.Sprintf("%d attempts in %s, %d failed, %d long-lived connections broke",
		len(p.Attempts), p.To.Sub(p.From).Round(100*time.Millisecond), len(p.Failed()), len(p.Broken()))
}

// legend says which colour is who.
func (p *picture) legend() {
	x := left
	entry := func(sign, text string) {
		fmt.Fprintf(&p.text, sign+"\n", number(x), number(line-10))
		p.write(x+14, line, "start", "#111111", text)
		x += 14 + letter*float64(len(text)) + 18
	}
	for i, name := range p.names {
		entry(`<rect x="%s" y="%s" width="10" height="10" fill="`+p.colour(i)+`"/>`, name)
	}
	if failed := p.Failed(); len(failed) > 0 {
		entry(`<rect x="%s" y="%s" width="10" height="10" fill="`+failure+`"/>`, fmt.Sprintf("%d of %d failed", len(failed), len(p.Attempts)))
	}
	if broken := p.Broken(); len(broken) > 0 {
		cross := `<path d="M%s %sm2 2l6 6m0-6l-6 6" fill="none" stroke="#111111" stroke-width="1.5"/>`
		entry(cross, fmt.Sprintf("%d long-lived connections broke", len(broken)))
	}
}

// area draws one value per bucket, as a silhouette on the line of no answers.
func (p *picture) area(colour string, values []int, y func(int) float64) {
	if slices.Max(values) == 0 {
		return
	}
	var d strings.Builder
	fmt.Fprintf(&d, "M%s %s", number(left), number(p.zero))
	last := 0
	for i, n := range values {
		if n != last {
			fmt.Fprintf(&d, "H%sV%s", number(p.edge(i)), number(y(n)))
			last = n
		}
	}
	fmt.Fprintf(&d, "H%sV%sZ", number(p.edge(len(values))), number(p.zero))
	fmt.Fprintf(&p.text, `<path d="%s" fill="%s"/>`+"\n", d.String(), colour)
}

// edge is the x where a bucket begins.
func (p *picture) edge(bucket int) float64 { return p.x(p.From.Add(time.Duration(bucket) * p.bucket)) }

func (p *picture) x(at time.Time) float64 {
	part := float64(at.Sub(p.From)) / float64(max(p.To.Sub(p.From), 1))
	return left + (right-left)*min(max(part, 0), 1)
}

func (p *picture) axes(most, worst int, bottom float64) {
	fmt.Fprintf(&p.text, `<path d="M%s %sV%sM%[1]s %[4]sH%s" stroke="#333333" fill="none"/>`+"\n",
		number(left), number(p.top), number(bottom), number(p.zero), number(right))
	p.write(left-6, p.zero+4, "end", "#111111", "0")
	if most > 0 {
		p.write(left-6, p.top+10, "end", "#111111", fmt.Sprint(most))
	}
	if worst > 0 {
		p.write(left-6, bottom, "end", failure, fmt.Sprint(worst))
	}
	fmt.Fprintf(&p.text, `<text transform="translate(16 %s) rotate(-90)" text-anchor="middle" fill="#111111">attempts per %s</text>`+"\n",
		number(p.top+plot/2), p.bucket)
	step := tick(p.To.Sub(p.From))
	for at := time.Duration(0); at <= p.To.Sub(p.From); at += step {
		x := p.x(p.From.Add(at))
		fmt.Fprintf(&p.text, `<path d="M%s %sv4" stroke="#333333"/>`+"\n", number(x), number(bottom))
		p.write(x, bottom+line, "middle", "#111111", fmt.Sprintf("%gs", at.Seconds()))
	}
}

// tick is the time between two labels, of which there are ten or so.
func tick(span time.Duration) time.Duration {
	for unit := 100 * time.Millisecond; ; unit *= 10 {
		for _, times := range []time.Duration{1, 2, 5} {
			if span <= 12*times*unit {
				return times * unit
			}
		}
	}
}

type label struct {
	x, y   float64
	anchor string
}

// lanes finds places for the marks' labels, so that none is written over another.
func (p *picture) lanes() (labels []label, lanes int) {
	var free []float64 // from which x, by lane
	for _, m := range p.Marks {
		x, wide := p.x(m.At), letter*float64(len(m.What))
		l, from, to := label{x: x - 2, anchor: "start"}, x-2, x+wide
		if to > width {
			l, from, to = label{x: x + 2, anchor: "end"}, x-wide, x+2
		}
		lane := slices.IndexFunc(free, func(x float64) bool { return x <= from })
		if lane < 0 {
			lane = len(free)
			free = append(free, 0)
		}
		free[lane] = to + letter
		l.y = line*2 + line*float64(lane)
		labels = append(labels, l)
	}
	return labels, len(free)
}

func (p *picture) write(x, y float64, anchor, colour, text string) {
	fmt.Fprintf(&p.text, `<text x="%s" y="%s" text-anchor="%s" fill="%s">%s</text>`+"\n", number(x), number(y), anchor, colour, escape(text))
}

// number is short: a tenth of a pixel is enough.
func number(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

func escape(text string) string {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text)) // a strings.Builder takes everything
	return escaped.String()
}
