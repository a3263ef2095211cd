package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kinds of notes.
const (
	NoteEvent     = "event"     // a Kubernetes Event
	NoteContainer = "container" // a container terminated; where it was killed for its memory there is no Event of it
	NotePod       = "pod"       // a pod's life: created, deleted, gone, …
)

// A Note is something that happened in the cluster, as people are told.
type Note struct {
	// Time is when it happened, by the hub's clock. Where the cluster tells that to
	// the second only, it is the latest it can have been: when it was learnt, or the
	// end of that second. So it stands after what led to it.
	Time int64

	Own     time.Time // as the cluster tells it; zero where it does not
	Learnt  int64     // when the recorder learnt of it, by the hub's clock
	Kind    string    // one of those above
	Warning bool
	Reason  string
	Message string
	Source  string // component that reports it
	Host    string // node of that component
	Count   int    // how often it has happened, of an event
	About   Ref
	Node    string // where what it is about is; empty when that is nowhere, or not known
}

// Limits of the notes that a table keeps.
const (
	maxNotes   = 200_000
	maxMessage = 4 << 10 // bytes
)

type noteKey struct {
	kind, uid, what string
	count           int
	at              int64
}

// notes are those of a builder, each once.
type notes struct {
	all  []Note
	seen map[noteKey]int // in all
	lost int
}

// note keeps a note that may be of the builder's time. Of those that tell the same
// it is the one that was learnt first.
func (b *Builder) note(key noteKey, n Note) {
	if n.Time < later(b.from, -second) || n.Time >= later(b.to, second) {
		return // who learnt it first made it a second earlier at most
	}
	if i, ok := b.notes.seen[key]; ok {
		if first := &b.notes.all[i]; n.Learnt < first.Learnt {
			first.Time, first.Learnt = n.Time, n.Learnt
		}
		return
	}
	if len(b.notes.all) >= maxNotes {
		b.notes.lost++
		return
	}
	key.uid, key.what = strings.Clone(key.uid), strings.Clone(key.what)
	b.notes.seen[key] = len(b.notes.all)
	n.Reason, n.Source, n.Host = b.intern(clip(n.Reason)), b.intern(clip(n.Source)), b.intern(clip(n.Host))
	b.notes.all = append(b.notes.all, n)
}

// exactly is when something happened that the cluster tells as own, which is told
// in the hub's time, and which was learnt later.
func exactly(told int64, own time.Time, learnt int64) int64 {
	if told == 0 {
		return learnt
	}
	if own.Nanosecond() == 0 {
		told = later(told, second-int64(time.Microsecond))
	}
	return min(told, learnt) // clocks may be wrong
}

// event notes a Kubernetes Event, which a later recorder may tell again.
func (b *Builder) event(e *Event, at int64) {
	last := e.Last
	if last.IsZero() {
		last = e.First
	}
	if last.IsZero() {
		last = e.Created
	}
	told := b.own(e.Host, last)
	n := Note{
		Time: exactly(told, last, at), Own: last, Learnt: at, Kind: NoteEvent, Warning: e.Type == "Warning",
		Reason: e.Reason, Message: message(e.Message), Source: e.Source, Host: e.Host, Count: e.Count,
	}
	key := noteKey{kind: NoteEvent, uid: e.UID, count: e.Count, at: last.Unix()}
	n.About = Ref{
		Kind: b.intern(clip(e.About.Kind)), Namespace: b.intern(clip(e.About.Namespace)),
		Name: b.intern(clip(e.About.Name)), UID: b.intern(clip(e.About.UID)),
	}
	b.note(key, n)
}

// message is a copy of a message, of bounded length.
func message(s string) string {
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "")
	}
	return strings.Clone(s)
}

// lifecycle notes what a pod's state tells of its life.
func (b *Builder) lifecycle(o *object, p *Pod, at int64) {
	tell := func(kind, what string, t time.Time, n Note) {
		if t.IsZero() {
			return
		}
		told := b.own(o.Node, t)
		n.Time, n.Own, n.Learnt, n.Kind = exactly(told, t, at), t, at, kind
		n.About, n.Node = o.Ref, o.Node
		key := noteKey{kind: kind, uid: o.UID, what: what}
		if kind == NoteContainer { // more than one can be
			key.at = t.Unix()
		}
		b.note(key, n)
	}
	tell(NotePod, "added", p.Created, Note{Reason: "Added", Message: "pod created"})
	tell(NotePod, "deleting", p.Deleted, Note{Reason: "Deleting", Message: "its deletion was asked for"})
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.State == "terminated" {
			tell(NoteContainer, c.Name, c.Finished, terminated(c.Name, c.Reason, c.ExitCode))
		}
		if c.Last != nil {
			tell(NoteContainer, c.Name, c.Last.Finished, terminated(c.Name, c.Last.Reason, c.Last.ExitCode))
		}
	}
}

func terminated(name, reason string, code int) Note {
	if reason == "" {
		reason = "Terminated"
	}
	return Note{
		Reason: reason, Warning: code != 0 || reason == "OOMKilled",
		Message: fmt.Sprintf("container %s terminated: %s, exit code %d", clip(name), clip(reason), code),
	}
}

func phaseMessage(p *Pod) string {
	if p.Reason == "" {
		return "its phase is " + clip(p.Phase)
	}
	return "its phase is " + clip(p.Phase) + ": " + clip(p.Reason)
}

// changed notes what is seen to change, and has no time of its own.
func (b *Builder) changed(o *object, what, reason, message string, warning bool, at int64) {
	b.note(noteKey{kind: NotePod, uid: o.UID, what: what}, Note{
		Time: at, Learnt: at, Kind: NotePod, Reason: reason, Message: message, Warning: warning, About: o.Ref, Node: o.Node,
	})
}

// sorted are the notes from one time until another, in order, with the nodes that
// the table knows.
func (n *notes) sorted(t *Table, from, to int64) ([]Note, int) {
	n.all = slices.DeleteFunc(n.all, func(note Note) bool { return note.Time < from || note.Time >= to })
	for i := range n.all {
		note := &n.all[i]
		switch {
		case note.Node != "":
		case note.About.Kind == KindNode:
			note.Node = note.About.Name
		default:
			if o := t.byUID[note.About.UID]; o != nil {
				note.Node = o.Node
			}
		}
	}
	slices.SortFunc(n.all, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), strings.Compare(a.About.Path(), b.About.Path()), strings.Compare(a.Kind, b.Kind),
			strings.Compare(a.Reason, b.Reason), strings.Compare(a.Message, b.Message), cmp.Compare(a.Count, b.Count),
			strings.Compare(a.About.UID, b.About.UID))
	})
	return n.all, n.lost
}

// Notes are what happened in the time that the table was made for, in order. What
// there was no room for is counted.
func (t *Table) Notes() (notes []Note, lost int) { return t.notes, t.lost }
