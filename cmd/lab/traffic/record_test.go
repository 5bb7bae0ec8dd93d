package traffic

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// noon is when all stories begin.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// told reads a story: its lines begin with the second in which they begin.
//
//	0.0 a a b !timeout   attempts, a tenth of a second apart: which node answered, 10 ms later, or why none did: timeouts took a second
//	0.4 = a dies         a mark
//	0.5 x a reset        a long-lived connection, there since the beginning, broke
//	0.9 .                the end
func told(t *testing.T, story string) *Record {
	t.Helper()
	r := &Record{From: noon}
	for text := range strings.Lines(strings.TrimSpace(story)) {
		words := strings.Fields(text)
		seconds, err := strconv.ParseFloat(words[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		at := noon.Add(time.Duration(seconds * float64(time.Second)))
		switch words[1] {
		case "=":
			r.Marks = append(r.Marks, Mark{at, strings.Join(words[2:], " ")})
		case "x":
			r.Long = append(r.Long, Conversation{Began: noon, Opened: noon, Broke: at, Answer: Answer{Node: words[2]}, Why: Class(words[3])})
		case ".":
			r.To = at
		default:
			for i, word := range words[1:] {
				a := Attempt{Began: at.Add(time.Duration(i) * 100 * time.Millisecond), Took: 10 * time.Millisecond}
				if why, failed := strings.CutPrefix(word, "!"); failed {
					a.Why, a.Error = Class(why), "as the story has it"
					if a.Why == Timeout {
						a.Took = time.Second
					}
				} else {
					client := netip.MustParseAddr("10.0.0.1")
					if word == "b" { // it has no pod of its own
						client = netip.MustParseAddr("10.0.0.2")
					}
					a.Answer = Answer{Pod: "web-" + word, Node: word, Client: client}
				}
				r.Attempts = append(r.Attempts, a)
			}
		}
	}
	return r
}

const twoNodesDie = `
0.0 a b a b a b a b a b
0.7 x a reset
1.0 = a dies
1.0 b !timeout b !timeout b b b b b b b b b b b b b b b b
2.3 x a timeout
3.0 = b dies too
3.0 !refused !refused !refused !reset
3.4 .
`

func TestARecordKnowsWhatFailedAndWhoAnswered(t *testing.T) {
	r := told(t, twoNodesDie)
	for _, q := range []struct{ question, got, want string }{
		{"how many failed?", fmt.Sprint(len(r.Failed())), "6"},
		{"why?", fmt.Sprint(r.Reasons()), "map[refused:3 reset:1 timeout:2]"},
		{"how many were answered?", fmt.Sprint(len(r.Answered())), "28"},
		{"by which nodes?", fmt.Sprint(r.Nodes()), "[a 18% b 82%]"},
		{"by which pods?", fmt.Sprint(r.Pods()), "[web-a 18% web-b 82%]"},
		{"whom did they see?", fmt.Sprint(r.Clients()), "[10.0.0.1 10.0.0.2]"},
		{"how many long-lived connections broke?", fmt.Sprint(len(r.Broken())), "2"},
		{"how many of them in the first second?", fmt.Sprint(len(r.Between(r.From, r.Marks[0].At).Broken())), "1"},
		{"how many were there later?", fmt.Sprint(len(r.Between(r.Marks[0].At, r.To).Long)), "1"},
		{"which marks are in the second half?", fmt.Sprint(len(r.Between(r.Marks[1].At, r.To).Marks)), "1"},
		{"who answered in the first second?", fmt.Sprint(r.Between(r.From, r.Marks[0].At).Nodes()), "[a 50% b 50%]"},
		{"who at the end?", fmt.Sprint(r.Between(r.Marks[1].At, r.To).Nodes()), "[]"},
	} {
		if q.got != q.want {
			t.Errorf("%s %s, want %s", q.question, q.got, q.want)
		}
	}
}

func TestAnOutageLastsFromTheFirstFailureToTheLast(t *testing.T) {
	r := told(t, twoNodesDie)
	for _, c := range []struct {
		apart time.Duration
		want  string
	}{
		{time.Second, "1.1s to 1.3s: 2, 3s to 3.3s: 4"},
		{2 * time.Second, "1.1s to 3.3s: 6"},
		{50 * time.Millisecond, "1.1s to 1.1s: 1, 1.3s to 1.3s: 1, 3s to 3s: 1, 3.1s to 3.1s: 1, 3.2s to 3.2s: 1, 3.3s to 3.3s: 1"},
	} {
		var got []string
		for _, o := range r.Outages(c.apart) {
			got = append(got, fmt.Sprintf("%s to %s: %d", o.First.Sub(noon), o.Last.Sub(noon), o.Failed))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("distinct if %v apart: %s, want %s", c.apart, text, c.want)
		}
	}
}

func TestRecoveryEndsWithTheLastAttemptThatFails(t *testing.T) {
	for _, c := range []struct{ story, want string }{
		{"0.0 = nothing\n0.0 a a a\n0.5 .", "0s true"},
		{"0.0 = quiet\n0.5 .", "0s true"},
		{"0.0 = a blink\n0.1 a !reset a\n0.5 .", "200ms true"},
		{"0.0 = some fail\n0.1 a !reset a a !reset a\n0.9 .", "500ms true"},
		{"0.0 = for good\n0.1 a !reset !reset\n0.5 .", "300ms false"},
		{"0.0 !reset\n0.1 = only before it\n0.1 a a\n0.5 .", "0s true"},
		{"0.0 !timeout\n0.1 = it was under way\n0.1 a a\n2.0 .", "0s true"},
		{"0.0 = only after the next\n0.1 a\n0.2 = next\n0.2 !reset\n0.5 .", "0s true"},
		{"0.0 = the last is under way at the next\n0.1 a !timeout\n0.5 = next\n0.5 a\n2.0 .", "0s true"},
	} {
		r := told(t, c.story)
		took, over := r.Recovery(r.Marks[0])
		if got := fmt.Sprint(took, over); got != c.want {
			t.Errorf("%s: %s, want %s", r.Marks[0].What, got, c.want)
		}
	}
}

func TestTheTableTellsTheStory(t *testing.T) {
	for _, c := range []struct{ story, want string }{
		{twoNodesDie, `
WHAT HAPPENED   ATTEMPTS   FAILED   RECOVERY   LONG-LIVED BROKEN   NODES BEFORE -> AFTER
start           10         0        -          1                   - -> a 40%, b 60%
a dies          20         2        300ms      1                   a 40%, b 60% -> b 100%
b dies too      4          4        not yet    0                   b 100% -> -
`},
		{`
0.0 = the cable is pulled
0.0 a a !timeout !timeout !timeout !timeout !timeout !timeout !timeout !timeout !timeout !timeout !timeout !timeout
1.4 = it is put back
1.4 a a a a
1.8 .
`, `
WHAT HAPPENED         ATTEMPTS   FAILED               RECOVERY   LONG-LIVED BROKEN   NODES BEFORE -> AFTER
the cable is pulled   14         3                    not yet    0                   - -> -
it is put back        4          0, and 9 under way   -          0                   - -> a 100%
`},
		{`
0.0 !refused a c
0.205 = c was under way
0.205 = two at once
0.3 b b b b
0.7 .
`, `
WHAT HAPPENED     ATTEMPTS   FAILED   RECOVERY   LONG-LIVED BROKEN   NODES BEFORE -> AFTER
start             3          1        0s         0                   - -> a 100%
c was under way   0          0        -          0                   a 100% -> -
two at once       4          0        -          0                   - -> b 100%
`},
		{"0.5 x a reset\n1.0 = later\n2.0 .", `
WHAT HAPPENED   ATTEMPTS   FAILED   RECOVERY   LONG-LIVED BROKEN   NODES BEFORE -> AFTER
start           0          0        -          1                   - -> -
later           0          0        -          0                   - -> -
`},
		{"0.0 a a a a\n0.4 .", `
WHAT HAPPENED   ATTEMPTS   FAILED   RECOVERY   LONG-LIVED BROKEN   NODES BEFORE -> AFTER
start           4          0        -          0                   - -> a 100%
`},
	} {
		if got, want := told(t, c.story).Table().String(), strings.TrimPrefix(c.want, "\n"); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// No failure is lost between two rows: they add up to all attempts.
func TestEveryAttemptIsInOneRow(t *testing.T) {
	r := told(t, twoNodesDie)
	attempts, failed := 0, 0
	for _, row := range r.Table() {
		attempts += row.Attempts
		failed += row.Failed + row.UnderWay
	}
	if attempts != len(r.Attempts) || failed != len(r.Failed()) {
		t.Errorf("the rows have %d attempts, %d failed; the record %d, %d", attempts, failed, len(r.Attempts), len(r.Failed()))
	}
}

// elements reads a picture, all of which must be XML, and counts its elements. A person who wants to see it sets LAB_PICTURES to a folder.
func elements(t *testing.T, r *Record) (text string, count map[string]int) {
	t.Helper()
	var picture bytes.Buffer
	if err := SVG(&picture, r); err != nil {
		t.Fatal(err)
	}
	text, count = picture.String(), map[string]int{}
	for decoder := xml.NewDecoder(&picture); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
	if dir := os.Getenv("LAB_PICTURES"); dir != "" {
		must(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+".svg"), []byte(text), 0o644))
	}
	return text, count
}

func TestThePictureShowsNodesFailuresMarksAndWhatBroke(t *testing.T) {
	text, count := elements(t, told(t, twoNodesDie))
	for _, want := range []string{">a dies<", ">b dies too<", ">6 of 34 failed<", ">2 long-lived connections broke<", failure, colours[0], colours[1], ">attempts per 100ms<"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, colours[2]) {
		t.Error("there is a third node")
	}
	// The background, and three in the legend.
	if count["svg"] != 1 || count["rect"] != 4 {
		t.Errorf("it has %v", count)
	}
}

// By hand: 1000 pixels wide, of which the second takes 920; 260 high, for at most 1 answer and 1 failure per tenth of a second.
func TestThePicturesAreasAreWhereTheyBelong(t *testing.T) {
	text, _ := elements(t, told(t, "0.0 a b b\n0.3 !reset\n1.0 ."))
	for _, want := range []string{
		`d="M60 162H60V32H152V162H980V162Z" fill="` + colours[0],
		`d="M60 162H60V32H336V162H980V162Z" fill="` + colours[1],
		`d="M60 162H336V292H428V162H980V162Z" fill="` + failure,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}

func TestAnyRecordHasAPicture(t *testing.T) {
	for name, story := range map[string]string{
		"empty":        "0.0 .",
		"failures":     "0.0 !reset !timeout\n5.0 .",
		"hostile":      "0.0 <b>&amp;\" a\n0.1 = </svg><script>\n0.1 = \x01 & \"\n1.0 .",
		"after it":     "5.0 a a\n5.0 = late\n1.0 .",
		"many nodes":   "0.0 a b c d e f g h i j k l\n1.0 .",
		"only marks":   "0.0 = one\n0.0 = two\n0.0 = three\n1.0 .",
		"long and big": long(),
	} {
		t.Run(name, func(t *testing.T) {
			text, count := elements(t, told(t, story))
			if count["svg"] != 1 || count["script"] != 0 || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
				t.Errorf("elements %v in\n%s", count, text)
			}
			if len(text) >= 200_000 {
				t.Errorf("it has %d bytes", len(text))
			}
			t.Logf("%d bytes", len(text))
		})
	}
}

// long is ten minutes of ten nodes, one of which fails at times, with a mark every half a minute.
func long() string {
	var story strings.Builder
	for i := range 600 {
		for range 20 {
			fmt.Fprintf(&story, "%d a b c d e f g h i j\n", i)
		}
		if i%7 == 0 {
			fmt.Fprintf(&story, "%d !timeout !reset a !refused\n%d x a reset\n", i, i)
		}
		if i%30 == 0 {
			fmt.Fprintf(&story, "%d = event number %d has a long name\n", i, i/30)
		}
	}
	return story.String() + "600 ."
}

func TestLabelsOfMarksAreNotWrittenOverEachOther(t *testing.T) {
	p := newPicture(told(t, "0.0 = the first of them all\n0.1 = and another\n5.0 = much later\n9.9 = the last one\n10.0 ."))
	labels, lanes := p.lanes()
	var got []string
	for i, l := range labels {
		got = append(got, fmt.Sprintf("%s in lane %.0f %s", p.Marks[i].What, (l.y-2*line)/line, l.anchor))
	}
	want := []string{"the first of them all in lane 0 start", "and another in lane 1 start", "much later in lane 0 start", "the last one in lane 0 end"}
	if !slices.Equal(got, want) || lanes != 2 {
		t.Errorf("in %d lanes %q, want %q", lanes, got, want)
	}
}

func TestAnAnswerNamesPodNodeAndClient(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"web-1 node-a 10.0.0.1\n", "web-1 node-a 10.0.0.1"},
		{"web-1 node-a 10.0.0.1:4711\n", "web-1 node-a 10.0.0.1"},
		{"web-1 node-a [fd00::1]:4711\n", "web-1 node-a fd00::1"},
		{"web-1 node-a ::ffff:10.0.0.1\n", "web-1 node-a 10.0.0.1"},
		{"hello\n", `the answer is "hello\n": want a pod, a node, and the client's address`},
		{"web-1 node-a web-2\n", `the answer is "web-1 node-a web-2\n": want a pod, a node, and the client's address`},
	} {
		got := ""
		if answer, err := ParseAnswer(c.line); err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%s %s %s", answer.Pod, answer.Node, answer.Client)
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.line, got, c.want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
