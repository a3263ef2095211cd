package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/capfile"
	"pcapsule/manifest"
)

// shownNames are the names by which files are told of: the last part of a path,
// or all of it where several end alike.
func shownNames(files []File) map[string]string {
	paths, count := map[string]string{}, map[string]int{}
	for _, f := range files {
		if _, ok := paths[f.Path]; !ok {
			paths[f.Path] = filepath.Base(f.Path)
			count[filepath.Base(f.Path)]++
		}
	}
	for path, base := range paths {
		if count[base] > 1 {
			paths[path] = path
		}
	}
	paths["-"] = "standard input"
	return paths
}

// A file is one file on its way into the chunks of its node.
type file struct {
	*node
	name    string
	capture *capfile.Reader
	numbers map[int]uint32 // the cutter's, by the file's numbers of interfaces
	span    extent
	gaps    []manifest.Gap

	before   int64 // time of the packet before
	back     time.Duration
	backs    int               // how often times went back
	backOver manifest.Interval // from the earliest time after to the latest before
}

// An extent is what the packets of a file span.
type extent struct {
	packets     uint64
	first, last int64
	silence     int64 // the longest time between a packet and the next
}

// file adds the packets of one file. Its errors end the import: what is wrong
// with the file alone is a gap.
func (n *node) file(ctx context.Context, from File) error {
	f := &file{node: n, name: n.shown[from.Path], numbers: map[int]uint32{}}
	err := f.read(ctx, from)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	n.add(f)
	return nil
}

func (f *file) read(ctx context.Context, from File) error {
	r, closeFile, err := f.open(ctx, from)
	if errors.Is(err, errTwice) {
		f.gap(manifest.GapSkipped, f.name+" was "+err.Error(), 1)
		return nil
	}
	if err == nil {
		defer closeFile()
		f.capture, err = capfile.NewReader(r)
	}
	if err != nil {
		f.unreadable(err)
		return nil
	}
	for {
		if f.span.packets%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		p, err := f.capture.Next()
		if err != nil {
			f.ended(err)
			f.beside()
			return nil
		}
		if err := f.packet(p); err != nil {
			return fmt.Errorf("packet %d: %w", f.span.packets+1, err)
		}
	}
}

// unreadable says that nothing of the file could be read, and why.
func (f *file) unreadable(err error) {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err // the file is named already
	}
	f.gap(manifest.GapUnreadable, fmt.Sprintf("%s: %v", f.name, err), 0)
}

// ended tells why no packet follows.
func (f *file) ended(err error) {
	switch {
	case errors.Is(err, io.EOF):
		if f.span.packets == 0 && len(f.capture.Lost()) == 0 {
			f.gap(manifest.GapNotImported, f.name+" holds no packet", 0)
		}
	case errors.Is(err, capfile.ErrTruncated):
		f.gap(manifest.GapTruncated, f.name+" ends inside a packet", 1)
	case f.span.packets == 0:
		f.unreadable(err)
	case errors.Is(err, capfile.ErrFormat):
		f.gap(manifest.GapTruncated, fmt.Sprintf("%s is damaged, and was not read any further: %v", f.name, err), 0)
	default:
		f.gap(manifest.GapTruncated, fmt.Sprintf("%s could not be read any further: %v", f.name, err), 0)
	}
}

func (f *file) packet(p *capfile.Packet) error {
	number, ok := f.numbers[p.Interface]
	if !ok {
		number = f.number(f.capture.Interface(p.Interface), p.Interface)
		f.numbers[p.Interface] = number
	}
	record := chunker.Record{Time: p.Time, Interface: number, OrigLen: p.OrigLen, Flags: p.Flags, Options: p.Options, Data: p.Data}
	if len(record.Data) > chunker.SnapLen {
		record.Data = record.Data[:chunker.SnapLen]
		f.gap(manifest.GapTruncated, fmt.Sprintf("%s holds packets of more than %d bytes", f.name, chunker.SnapLen), 1)
	}
	if len(record.Options) > chunker.MaxOptions {
		record.Options = nil
		f.gap(manifest.GapSkipped, f.name+" holds longer packet options than a chunk can", 1)
	}
	if err := f.cutter.Add(&record); err != nil {
		return err
	}
	f.at(p.Time)
	return nil
}

// stepBack is how far times may go back without being told of: captures of several
// interfaces, or processors, are out of order by less.
const stepBack = time.Second

// at takes note of the time of a packet.
func (f *file) at(t int64) {
	s := &f.span
	if s.packets == 0 {
		s.first, s.last = t, t
	} else {
		s.silence = max(s.silence, t-f.before)
		if back := time.Duration(f.before - t); back > stepBack {
			if f.backs == 0 {
				f.backOver = manifest.Interval{From: manifest.Nanos(t), To: manifest.Nanos(f.before)}
			}
			f.backs++
			f.back = max(f.back, back)
			f.backOver.From, f.backOver.To = min(f.backOver.From, manifest.Nanos(t)), max(f.backOver.To, manifest.Nanos(f.before))
		}
	}
	s.packets++
	s.first, s.last, f.before = min(s.first, t), max(s.last, t), t
}

// beside records what a file held that is not in the chunks, and what it says was
// lost before.
func (f *file) beside() {
	for i := range f.capture.Interfaces() {
		f.origin(i)
	}
	for kind, count := range f.capture.Skipped() {
		f.gap(manifest.GapSkipped, f.name+": "+kind, uint64(count))
	}
	for kind, count := range f.capture.Lost() {
		f.gap(manifest.GapTruncated, f.name+" held what a chunk cannot: "+kind, uint64(count))
	}
	for kind, count := range f.capture.Corrected() {
		f.gap(manifest.GapCorrected, f.name+": "+kind, uint64(count))
	}
	if count := f.capture.Untimed(); count > 0 {
		f.gap(manifest.GapUntimed, f.name, uint64(count))
	}
	for _, l := range f.capture.Losses() {
		name := ""
		if l.Interface >= 0 {
			name = named(f.capture.Interface(l.Interface), l.Interface).Name
		}
		if l.Dropped > 0 {
			f.cutter.Drops(l.Dropped)
			f.gapOf(name, manifest.GapKernelDrop, f.name+": as it says itself", l.Dropped)
		}
		if l.Filtered > 0 {
			f.gapOf(name, manifest.GapFiltered, f.name+": by its capture filter", l.Filtered)
		}
	}
	if f.backs > 0 {
		times := "once"
		if f.backs > 1 {
			times = fmt.Sprintf("%d times", f.backs)
		}
		f.gaps = append(f.gaps, manifest.Gap{
			Stream: chunker.Packets, Reason: manifest.GapClockStep, From: f.backOver.From, To: f.backOver.To, Count: uint64(f.back),
			Detail: manifest.Clean(fmt.Sprintf("%s: its times go back %s, by up to %s", f.name, times, f.back)),
		})
	}
}

func (f *file) gap(reason, detail string, count uint64) { f.gapOf("", reason, detail, count) }

// gapOf notes a gap of the file, of one interface where it has a name.
func (f *file) gapOf(iface, reason, detail string, count uint64) {
	detail = manifest.Clean(detail)
	for i, g := range f.gaps {
		if g.Interface == iface && g.Reason == reason && g.Detail == detail {
			f.gaps[i].Count += count
			return
		}
	}
	f.gaps = append(f.gaps, manifest.Gap{Stream: chunker.Packets, Reason: reason, Interface: iface, Detail: detail, Count: count})
}
