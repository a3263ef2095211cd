package pcapgen

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// A journal is the input of the merge that is no chunk: what happened in the
// cluster, as systemd journal export blocks. They are made a batch at a time.
type journal struct {
	rows []row
	next int
}

// A row is a note with the time at which it stands among the packets.
type row struct {
	at    int64
	clock string // whose time that is: a node's, or empty for the hub's
	note  *cluster.Note
}

// Priorities of journal entries, as in syslog.
const (
	priorityError   = 3
	priorityWarning = 4
	priorityInfo    = 6
)

// newJournal takes the notes that belong to the export, in order. What is about
// something on a node has the time of that node's clock, as its packets have;
// everything else has the hub's. Entries know microseconds.
func newJournal(t *cluster.Table, c *choice, req *Request, m *manifest.Manifest) *journal {
	notes, lost := t.Notes()
	relevant := func(*cluster.Note) bool { return true }
	if c != nil {
		relevant = c.relevant()
	}
	clocks := map[string]int64{}
	for i := range m.Nodes {
		clocks[m.Nodes[i].Name] = offsetOf(m, m.Nodes[i].Name)
	}
	j := new(journal)
	for i := range notes {
		n := &notes[i]
		switch {
		case n.Kind == cluster.NotePod: // Kubernetes has events of that
			continue
		case len(req.Nodes) > 0 && n.Node != "" && !slices.Contains(req.Nodes, n.Node), !relevant(n):
			continue
		}
		r := row{at: n.Time, note: n}
		if offset, ok := clocks[n.Node]; ok && n.Node != "" {
			r.at, r.clock = shift(n.Time, offset), n.Node
		}
		r.at -= r.at % int64(time.Microsecond)
		j.rows = append(j.rows, r)
	}
	slices.SortStableFunc(j.rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
	if n := len(j.rows); n > 0 && lost > 0 {
		j.rows = append(j.rows, row{at: j.rows[n-1].at, note: &cluster.Note{
			Warning: true, Reason: "LeftOut", About: cluster.Ref{Kind: "Snapshot", Name: m.Name},
			Message: fmt.Sprintf("%d more events are not in this export: choose a part with --from and --to", lost),
		}})
	}
	return j
}

// input is the journal as the merge sees it: before all interfaces, of which the
// lowest number is 0, and all chunks, of which the first is 1.
func (j *journal) input() *input { return &input{journal: j} }

// batch fills b with the next entries; it returns nil when there are none.
func (j *journal) batch(b *batch) *batch {
	if b == nil {
		b = new(batch)
	}
	b.Buf, b.Ends, b.Times, b.interfaces, b.next = b.Buf[:0], b.Ends[:0], b.Times[:0], b.interfaces[:0], 0
	for ; j.next < len(j.rows) && len(b.Buf) < idleBytes; j.next++ {
		r := &j.rows[j.next]
		b.Buf = pcapng.AppendJournal(b.Buf, r.at/int64(time.Microsecond), r.fields())
		b.Ends, b.Times, b.interfaces = append(b.Ends, uint32(len(b.Buf))), append(b.Times, r.at), append(b.interfaces, 0)
	}
	if len(b.Ends) == 0 {
		return nil
	}
	return b
}

// fields are what an entry says, besides its time.
func (r *row) fields() []pcapng.Field {
	n := r.note
	priority := priorityInfo
	switch {
	case n.Warning && n.Kind == cluster.NoteContainer:
		priority = priorityError
	case n.Warning:
		priority = priorityWarning
	}
	source := n.Source
	if source == "" {
		source = "kubernetes"
	}
	message := n.Reason + " " + strings.ToLower(n.About.Kind) + " " + n.About.Path() + ": " + n.Message
	clock := "hub"
	if r.clock != "" {
		clock = "node " + r.clock
	}
	f := []pcapng.Field{
		{Name: "MESSAGE", Value: message},
		{Name: "PRIORITY", Value: strconv.Itoa(priority)},
		{Name: "SYSLOG_IDENTIFIER", Value: source},
	}
	add := func(name, value string) {
		if value != "" {
			f = append(f, pcapng.Field{Name: name, Value: value})
		}
	}
	host := n.Host
	if host == "" {
		host = n.Node
	}
	add("_HOSTNAME", host)
	add("KUBERNETES_KIND", n.About.Kind)
	add("KUBERNETES_NAMESPACE", n.About.Namespace)
	add("KUBERNETES_NAME", n.About.Name)
	add("KUBERNETES_UID", n.About.UID)
	add("KUBERNETES_NODE", n.Node)
	add("KUBERNETES_REASON", n.Reason)
	if n.Count > 1 {
		add("KUBERNETES_COUNT", strconv.Itoa(n.Count))
	}
	if !n.Own.IsZero() {
		add("KUBERNETES_TIME", n.Own.UTC().Format(time.RFC3339Nano))
	}
	add("PCAPSULE_CLOCK", clock)
	add("PCAPSULE_STREAM", chunker.Kubernetes)
	return f
}
