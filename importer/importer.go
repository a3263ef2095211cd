// Package importer turns capture files of other programs into the parts of a
// snapshot: it reads them (package capfile), orders their packets and cuts them
// into chunks (package chunker), and hands the chunks on as they are sealed.
//
// It knows no store and no hub: an Upload takes the objects wherever they go. It
// needs memory for the packets that are out of order (Hold) and disk for a few
// chunks, whatever the size of the files.
package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"pcapsule/chunker"
	"pcapsule/internal/capfile"
	"pcapsule/manifest"
)

// Hold is how many bytes of packets are held back to put them in order. Packets
// further out of order start chunks of their own.
const Hold = 64 << 20

// A File is a capture of one node.
type File struct {
	Node string
	Path string // "-" is Options.Stdin
}

// Options of Run.
type Options struct {
	Files    []File
	Version  string    // of this program
	Stdin    io.Reader // for the path "-"
	Upload   Upload
	Progress func(bytes int64) // read from files since the last call; from one goroutine
}

// An Object is what an Upload takes.
type Object struct {
	Node   string
	Kind   string // manifest.KindChunk or KindInventory
	Hash   chunker.Hash
	SHA256 [32]byte
	Size   int64
	Ext    string
	Body   io.ReaderAt
}

// An Upload puts an object into the store and tells its key there. It is called
// concurrently, and done with Body when it returns.
type Upload func(context.Context, Object) (key string, err error)

// Run imports all files and returns a part for each node, by name. Everything
// that the parts name has been uploaded. What a chunk cannot carry, or a file
// lost its end of, is a gap of the part.
func Run(ctx context.Context, opt Options) ([]manifest.Node, error) {
	if len(opt.Files) == 0 {
		return nil, errors.New("import: no files")
	}
	dir, err := os.MkdirTemp("", "pcapsule-import-")
	if err != nil {
		return nil, temporary(err)
	}
	defer os.RemoveAll(dir)
	files := map[string][]File{}
	var names []string
	for _, f := range opt.Files {
		if err := manifest.CheckNode(f.Node); err != nil {
			return nil, err
		}
		if files[f.Node] == nil {
			names = append(names, f.Node)
		}
		files[f.Node] = append(files[f.Node], f)
	}
	slices.Sort(names)
	var nodes []manifest.Node
	for _, name := range names {
		n, err := importNode(ctx, opt, dir, name, files[name])
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, *n)
	}
	return nodes, nil
}

// node is one node's import.
type node struct {
	opt        Options
	name       string
	cutter     *chunker.Cutter
	interfaces map[chunker.Interface]uint32
	gaps       map[gapKey]*manifest.Gap
	first      int64 // of the packets added; -1 before there is one
	last       int64
}

func importNode(ctx context.Context, opt Options, dir, name string, files []File) (*manifest.Node, error) {
	s := newSink(ctx, dir, name, opt.Upload)
	n := &node{
		opt: opt, name: name,
		cutter: chunker.NewCutter(chunker.CutterConfig{
			Stream: chunker.Packets,
			Header: chunker.Header{Node: name, Application: "pcapsule " + opt.Version},
			Hold:   Hold,
		}, s),
		interfaces: map[chunker.Interface]uint32{},
		gaps:       map[gapKey]*manifest.Gap{},
		first:      -1,
	}
	err := func() error {
		for _, f := range files {
			if err := n.file(ctx, f); err != nil {
				return err
			}
		}
		return n.cutter.Close()
	}()
	entries, uploadErr := s.finish(err)
	if uploadErr != nil { // a cutter that failed failed for this
		return nil, uploadErr
	}
	if err != nil {
		return nil, err
	}
	return n.part(ctx, entries)
}

// file adds the packets of one file.
func (n *node) file(ctx context.Context, f File) error {
	r, closeFile, err := n.open(ctx, f)
	if err != nil {
		return err
	}
	defer closeFile()
	path, base := f.Path, filepath.Base(f.Path)
	if path == "-" {
		path, base = "standard input", "standard input"
	}
	capture, err := capfile.NewReader(r)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	numbers := map[int]uint32{}
	record := chunker.Record{}
	for i := 0; ; i++ {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		p, err := capture.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, capfile.ErrTruncated) {
			n.gap(manifest.GapTruncated, base+" ends inside a packet", 1)
			break
		}
		if errors.Is(err, capfile.ErrFormat) && i > 0 {
			n.gap(manifest.GapTruncated, fmt.Sprintf("%s is damaged, and was not read any further: %v", base, err), 0)
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		number, ok := numbers[p.Interface]
		if !ok {
			number = n.number(capture.Interface(p.Interface), p.Interface)
			numbers[p.Interface] = number
		}
		record = chunker.Record{Time: p.Time, Interface: number, OrigLen: p.OrigLen, Flags: p.Flags, Options: p.Options, Data: p.Data}
		if len(record.Data) > chunker.SnapLen {
			record.Data = record.Data[:chunker.SnapLen]
			n.gap(manifest.GapTruncated, fmt.Sprintf("%s holds packets of more than %d bytes", base, chunker.SnapLen), 1)
		}
		if len(record.Options) > chunker.MaxOptions {
			record.Options = nil
			n.gap(manifest.GapSkipped, base+" holds longer packet options than a chunk can", 1)
		}
		if err := n.cutter.Add(&record); err != nil {
			return fmt.Errorf("%s: packet %d: %w", path, i+1, err)
		}
		if n.first < 0 {
			n.first = p.Time
		}
		n.first, n.last = min(n.first, p.Time), max(n.last, p.Time)
	}
	n.beside(base, capture)
	return nil
}

// beside records what a file held that is not in the chunks, and what it says was
// lost before.
func (n *node) beside(base string, capture *capfile.Reader) {
	for kind, count := range capture.Skipped() {
		n.gap(manifest.GapSkipped, base+": "+kind, uint64(count))
	}
	for kind, count := range capture.Lost() {
		n.gap(manifest.GapTruncated, base+" held what a chunk cannot: "+kind, uint64(count))
	}
	for kind, count := range capture.Corrected() {
		n.gap(manifest.GapCorrected, base+": "+kind, uint64(count))
	}
	if count := capture.Untimed(); count > 0 {
		n.gap(manifest.GapUntimed, base, uint64(count))
	}
	for _, l := range capture.Losses() {
		name := ""
		if l.Interface >= 0 {
			name = named(capture.Interface(l.Interface), l.Interface).Name
		}
		if l.Dropped > 0 {
			n.cutter.Drops(l.Dropped)
			n.gapOf(name, manifest.GapKernelDrop, base+": as it says itself", l.Dropped)
		}
		if l.Filtered > 0 {
			n.gapOf(name, manifest.GapFiltered, base+": by its capture filter", l.Filtered)
		}
	}
}

// open opens a file, counting what is read of it.
func (n *node) open(ctx context.Context, f File) (r io.Reader, done func(), err error) {
	r, done = n.opt.Stdin, func() {}
	regular := false
	if f.Path != "-" {
		file, err := os.Open(f.Path)
		if err != nil {
			return nil, nil, err
		}
		if st, err := file.Stat(); err == nil {
			if st.IsDir() {
				file.Close()
				return nil, nil, fmt.Errorf("%s is a folder: name the capture files in it", f.Path)
			}
			regular = st.Mode().IsRegular()
		}
		r, done = file, func() { file.Close() }
	}
	if !regular {
		piped, stop := interruptible(ctx, r)
		closeFile := done
		r, done = piped, func() { stop(); closeFile() }
	}
	if n.opt.Progress != nil {
		r = &counted{r, n.opt.Progress}
	}
	return r, done, nil
}

// interruptible is r for as long as ctx lasts: a pipe or a terminal may have
// nothing to say for hours. The goroutine that reads r ends with the read after
// that, which may be never.
func interruptible(ctx context.Context, r io.Reader) (_ io.Reader, stop func()) {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	forget := context.AfterFunc(ctx, func() { in.CloseWithError(context.Cause(ctx)) })
	return out, func() {
		forget()
		_ = out.Close() // never fails
	}
}

type counted struct {
	r     io.Reader
	count func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.count(int64(n))
	return n, err
}

// number is the cutter's number of interface i of a file. Rotated files of one
// capture share their interfaces.
func (n *node) number(f capfile.Interface, i int) uint32 {
	desc := named(f, i)
	if _, ok := n.interfaces[desc]; !ok {
		n.interfaces[desc] = n.cutter.Interface(desc)
	}
	return n.interfaces[desc]
}

// named is interface i of a file, as chunks and the manifest have it.
func named(f capfile.Interface, i int) chunker.Interface {
	desc := chunker.Interface{Name: manifest.Clean(f.Name), Description: manifest.Clean(f.Description), LinkType: f.LinkType}
	if desc.Name == "" {
		desc.Name = fmt.Sprintf("if%d", i)
	}
	return desc
}

type gapKey struct{ iface, reason, detail string }

func (n *node) gap(reason, detail string, count uint64) { n.gapOf("", reason, detail, count) }

// gapOf adds count to a gap, of one interface where it has a name.
func (n *node) gapOf(iface, reason, detail string, count uint64) {
	detail = manifest.Clean(detail)
	key := gapKey{iface, reason, detail}
	g := n.gaps[key]
	if g == nil {
		g = &manifest.Gap{Stream: chunker.Packets, Reason: reason, Interface: iface, Detail: detail}
		n.gaps[key] = g
	}
	g.Count += count
}
