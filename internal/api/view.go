package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// Of is what a list says of the snapshot with this manifest.
func Of(m *manifest.Manifest) Snapshot {
	s := Snapshot{
		ID:      m.ID,
		Name:    m.Name,
		Status:  m.Status,
		Reasons: m.Reasons,
		Size:    m.Totals.Size,
		RawSize: m.Totals.RawSize,
		Start:   m.Window.From.Time(),
		End:     m.Window.To.Time(),
		Created: m.Created.Time(),
		Nodes:   []string{},
	}
	for i := range m.Nodes {
		n := &m.Nodes[i]
		s.Nodes = append(s.Nodes, n.Name)
		for _, stream := range n.Streams {
			if stream.Stream == chunker.Packets {
				s.Records += stream.Records
				s.Drops += stream.Drops
			}
		}
		_, warnings := Explain(n.Gaps, n.Clock.Window(m.Window), WordsOf(m.Clustered()))
		for _, w := range warnings {
			s.Warnings = append(s.Warnings, "node "+n.Name+": "+w)
		}
	}
	for _, w := range explainCluster(m.Gaps, m.Window) {
		s.Warnings = append(s.Warnings, "Kubernetes: "+w)
	}
	return s
}

// UnderWay is what a list says of a session that the process of owner runs, or
// ran before it died.
func UnderWay(id, name, owner string, created, deadline time.Time, dead bool) Snapshot {
	s := Snapshot{
		ID: id, Name: name, Status: Creating, Nodes: []string{},
		Created: created.UTC(), Owner: owner, Deadline: deadline.UTC(),
	}
	if dead {
		s.Status = Dead
		s.Reasons = []string{"the process that made it has died: `pcapsule snapshot delete " + id + "`, a sweep, or an import of its name ends it"}
	}
	return s
}

// explainCluster says for people what the gaps of the stream of the cluster mean.
// None of them makes a snapshot partial: its packets are all there, and what is
// missing are names and events.
func explainCluster(gaps []manifest.Gap, window manifest.Interval) (warnings []string) {
	for _, kind := range gapKinds(gaps) {
		g := sumOf(gaps, kind, window)
		if len(g.at) == 0 {
			continue // outside the window
		}
		says := ""
		switch kind {
		case manifest.GapNotRunning:
			says = "was not recorded: no agent followed the cluster then" + g.details()
		case manifest.GapUnreachable:
			says = "is missing" + g.details()
		case manifest.GapWatchLost:
			says = "may lack changes: the API server could not be asked" + g.details()
		case manifest.GapRingOverrun, manifest.GapDiskFull:
			says = "could not be kept: there was no room for it" + g.details()
		case manifest.GapClockStep:
			says = "has times that are off: the clock of the recording node jumped" + g.details()
		default:
			says = g.lack(kind, ChartWords)
		}
		warnings = append(warnings, strings.TrimSpace(g.when())+" "+says)
	}
	return warnings
}

// Words are those in which people are told what to do about an agent: they know it
// by its flags, or by the values of the chart.
type Words struct {
	RingSize string // what makes the ring larger
	Fair     string // what bounds the share that one address may have of it
}

var (
	FlagWords  = Words{RingSize: "--ring-size", Fair: "--fair"}
	ChartWords = Words{RingSize: "tap.capture.raw.storageSize", Fair: "agent.ring.fair"}
)

// WordsOf are the words for agents of a cluster, or of no cluster.
func WordsOf(cluster bool) Words {
	if cluster {
		return ChartWords
	}
	return FlagWords
}

// Explain says for people what the gaps of one node mean for a window of its
// time, a line for each kind. Reasons make the node's part partial: some of what
// was asked for is not there and cannot be had. Warnings do not: packets that
// the kernel dropped are counted in the chunks and were never to be had, a clock
// that jumped moves timestamps but loses nothing, and what an import leaves out
// are not packets.
func Explain(gaps []manifest.Gap, window manifest.Interval, words Words) (reasons, warnings []string) {
	for _, kind := range gapKinds(gaps) {
		g := sumOf(gaps, kind, window)
		switch when := g.when(); kind {
		case manifest.GapKernelDrop:
			if len(g.detail) > 0 { // an import's: of a capture that is over
				warnings = append(warnings, "the capture had lost "+g.lost()+" when it was imported"+g.details())
				continue
			}
			warnings = append(warnings, fmt.Sprintf("the kernel dropped %s in%s: give the agent more CPU or a larger capture buffer", g.lost(), when))
		case manifest.GapClockStep:
			warnings = append(warnings, fmt.Sprintf("its clock jumped in%s: times around that are off", when)+g.details())
		case manifest.GapInterfaceDown:
			if len(g.at) > 0 {
				warnings = append(warnings, strings.TrimSpace(when)+" "+g.interfaces()+" down: nothing could pass"+g.details())
			}
		case manifest.GapSkipped:
			warnings = append(warnings, "what is not packets was left out"+g.details())
		case manifest.GapUntimed:
			warnings = append(warnings, g.lost()+" had no time: put at that of the packet before"+g.details())
		case manifest.GapCorrected:
			warnings = append(warnings, "what cannot be was corrected"+g.details())
		case manifest.GapOverShare:
			if len(g.at) > 0 {
				warnings = append(warnings, fmt.Sprintf("%s in%s were left out, as an address had had its share of the ring", g.lost(), when)+g.details())
			}
		case manifest.GapFiltered:
			warnings = append(warnings, "the capture's filter left out "+g.lost()+g.details())
		case manifest.GapUnreadable:
			for _, d := range g.detail {
				reasons = append(reasons, "not imported: "+d)
			}
		case manifest.GapNotImported:
			// The window of an import is what its files span: nothing is missing.
			warnings = append(warnings, g.detail...)
		case manifest.GapTruncated:
			reasons = append(reasons, "the capture is cut short"+g.details())
		default:
			if len(g.at) == 0 {
				continue // outside the window
			}
			reasons = append(reasons, strings.TrimSpace(when)+" "+g.lack(kind, words))
		}
	}
	return reasons, warnings
}

// gapKinds are the reasons that occur, in the order in which people want them.
func gapKinds(gaps []manifest.Gap) []string {
	known := []string{
		manifest.GapUnreachable, manifest.GapEvicted, manifest.GapNotRunning, manifest.GapInterfaceGone, manifest.GapRingOverrun, manifest.GapDiskFull,
		manifest.GapDamaged, manifest.GapUnreadable, manifest.GapTruncated, manifest.GapWatchLost, manifest.GapKernelDrop, manifest.GapInterfaceDown, manifest.GapClockStep,
		manifest.GapOverShare, manifest.GapUntimed, manifest.GapCorrected, manifest.GapFiltered, manifest.GapSkipped,
	}
	rank := func(kind string) int {
		if i := slices.Index(known, kind); i >= 0 {
			return i
		}
		return len(known)
	}
	var kinds []string
	for _, g := range gaps {
		if !slices.Contains(kinds, g.Reason) {
			kinds = append(kinds, g.Reason)
		}
	}
	slices.SortFunc(kinds, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return kinds
}

// ofImport are the reasons that are about files rather than times: where their
// packets were put matters little.
var ofImport = map[string]bool{manifest.GapSkipped: true, manifest.GapTruncated: true, manifest.GapUnreadable: true, manifest.GapCorrected: true, manifest.GapFiltered: true}

// gapSum is what gaps of one kind amount to within a window.
type gapSum struct {
	at     []manifest.Interval
	count  uint64
	detail []string
	named  []string // interfaces
}

// sumOf sums up the gaps of one kind.
func sumOf(gaps []manifest.Gap, kind string, window manifest.Interval) (s gapSum) {
	for _, g := range gaps {
		if g.Reason == kind {
			s.add(g, window)
		}
	}
	return s
}

func (s *gapSum) add(g manifest.Gap, window manifest.Interval) {
	in := manifest.Interval{From: max(g.From, window.From), To: min(g.To, window.To)}
	point := g.From == g.To && g.From >= window.From && g.From <= window.To
	if in.From >= in.To && !point {
		if !ofImport[g.Reason] {
			return
		}
	} else {
		s.at = append(s.at, in)
	}
	s.count += g.Count
	if g.Detail != "" && !slices.Contains(s.detail, g.Detail) {
		s.detail = append(s.detail, g.Detail)
	}
	if g.Interface != "" && !slices.Contains(s.named, g.Interface) {
		s.named = append(s.named, g.Interface)
	}
}

// lack says what a gap of some kind means, after the times of it.
func (s *gapSum) lack(kind string, words Words) string {
	switch kind {
	case manifest.GapEvicted:
		if len(s.detail) > 0 {
			return "had been recycled by the ring" + s.details()
		}
		return "had been recycled by the ring: make the ring larger (" + words.RingSize + ")"
	case manifest.GapNotRunning:
		return "was not recorded: no capture ran there then" + s.details()
	case manifest.GapInterfaceGone:
		return s.interfaces() + " gone (removed, or moved to another network namespace), and not recorded" + s.details()
	case manifest.GapRingOverrun:
		return "lost " + s.lost() + ": the ring was full of chunks that snapshots in the making held; make the ring larger (" + words.RingSize + ")" + s.details()
	case manifest.GapDiskFull:
		return "lost " + s.lost() + ": the disk of the ring was full; free some space on it" + s.details()
	case manifest.GapDamaged:
		return "was recorded, but the ring's disk gave back other bytes than were written: check that disk" + s.details()
	case manifest.GapUnreachable:
		return "is missing: the part of the node did not arrive in time" + s.details()
	default:
		return "is incomplete: " + kind + s.details()
	}
}

// interfaces are those that the gaps are of, the first three, and their verb.
func (s *gapSum) interfaces() string {
	switch n := len(s.named); {
	case n == 0:
		return "an interface was"
	case n == 1:
		return "interface " + s.named[0] + " was"
	case n > 3:
		return "interfaces " + strings.Join(s.named[:3], ", ") + fmt.Sprintf(" and %d more were", n-3)
	default:
		return "interfaces " + strings.Join(s.named, ", ") + " were"
	}
}

func (s *gapSum) lost() string {
	switch s.count {
	case 0:
		return "packets"
	case 1:
		return "1 packet"
	default:
		return fmt.Sprintf("%d packets", s.count)
	}
}

// details in brackets; the first three.
func (s *gapSum) details() string {
	if len(s.detail) == 0 {
		return ""
	}
	d := s.detail
	if len(d) > 3 {
		d = append(slices.Clone(d[:3]), fmt.Sprintf("and %d more", len(s.detail)-3))
	}
	return " (" + strings.Join(d, "; ") + ")"
}

// when lists the times, the first three of them. Gaps less than a second apart are
// one time, which says how much of it they are.
func (s *gapSum) when() string {
	var times []spell
	for _, gap := range union(s.at) {
		if n := len(times); n > 0 && gap.From <= times[n-1].To.Add(manifest.Nanos(time.Second)) {
			times[n-1].add(gap)
			continue
		}
		times = append(times, spell{Interval: gap, gaps: 1})
	}
	var b strings.Builder
	for i, t := range times {
		switch {
		case i == 3:
			more := "times"
			if len(times) == 4 {
				more = "time"
			}
			fmt.Fprintf(&b, " and %d %s more", len(times)-3, more)
			return b.String()
		case i > 0:
			b.WriteString(",")
		}
		b.WriteString(" " + t.String())
	}
	return b.String()
}
