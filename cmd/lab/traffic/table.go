package traffic

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A Row is what one event did to the traffic, up to the next event.
type Row struct {
	What          string
	Attempts      int // that began after it
	Failed        int // of these, before the next event
	UnderWay      int // began before the event, and failed after it
	Recovery      time.Duration
	Recovered     bool
	Broken        int     // long-lived connections
	Before, After []Share // which nodes answered, when all was settled
}

// A Table is read by a person in a terminal.
type Table []Row

// Table has a row for each mark, and one for the time before the first if there was anything in it.
func (r *Record) Table() Table {
	marks := r.Marks
	if len(marks) == 0 || len(r.Attempts) > 0 && r.Attempts[0].Began.Before(marks[0].At) || len(r.Between(r.From, marks[0].At).Broken()) > 0 {
		marks = append([]Mark{{r.From, "start"}}, marks...)
	}
	table := make(Table, len(marks))
	for i, mark := range marks {
		row := &table[i]
		row.What = mark.What
		next := r.To
		if i+1 < len(marks) {
			next = marks[i+1].At
		}
		row.Recovery, row.Recovered = r.recovery(mark.At, next)
		row.Broken = len(r.Between(mark.At, next).Broken())
		if i > 0 {
			row.Before = table[i-1].After
		}
		var settled []Attempt
		for _, a := range r.Attempts {
			if !within(a.Began, mark.At, next) {
				continue
			}
			row.Attempts++
			switch crossed := i+1 < len(marks) && a.ended().After(next); { // whether the next event may be the reason
			case crossed && a.failed():
				table[i+1].UnderWay++
			case crossed:
			case a.failed():
				row.Failed++
				settled = nil
			default:
				settled = append(settled, a)
			}
		}
		// What came later than the last failure is settled. Since routes may also change without any, only the second half of it is.
		row.After = shares(settled[len(settled)/2:], node)
	}
	return table
}

// Print shows the table.
func (t Table) Print(w io.Writer) error {
	columns := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(columns, "WHAT HAPPENED\tATTEMPTS\tFAILED\tRECOVERY\tLONG-LIVED BROKEN\tNODES BEFORE -> AFTER")
	for _, row := range t {
		failed := fmt.Sprint(row.Failed)
		if row.UnderWay > 0 {
			failed += fmt.Sprintf(", and %d under way", row.UnderWay)
		}
		recovery := "-"
		switch {
		case !row.Recovered:
			recovery = "not yet"
		case row.Failed > 0:
			recovery = row.Recovery.Round(time.Millisecond).String()
		}
		fmt.Fprintf(columns, "%s\t%d\t%s\t%s\t%d\t%s -> %s\n", row.What, row.Attempts, failed, recovery, row.Broken, list(row.Before), list(row.After))
	}
	return columns.Flush()
}

// String is what Print prints.
func (t Table) String() string {
	var text strings.Builder
	_ = t.Print(&text) // a strings.Builder takes everything
	return text.String()
}

// list is a dash when there is nobody.
func list(shares []Share) string {
	if len(shares) == 0 {
		return "-"
	}
	texts := make([]string, len(shares))
	for i, s := range shares {
		texts[i] = s.String()
	}
	return strings.Join(texts, ", ")
}
