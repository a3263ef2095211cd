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
	"maps"
	"os"
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
// that the parts name has been uploaded. What a chunk cannot carry, what a file
// lost its end of, and a file that cannot be read, is a gap of the part. It fails
// when no file has a packet.
func Run(ctx context.Context, opt Options) ([]manifest.Node, error) {
	if len(opt.Files) == 0 {
		return nil, errors.New("import: no files")
	}
	dir, release, err := workFolder()
	if err != nil {
		return nil, temporary(err)
	}
	defer release()
	files := map[string][]File{}
	for _, f := range opt.Files {
		if err := manifest.CheckNode(f.Node); err != nil {
			return nil, err
		}
		files[f.Node] = append(files[f.Node], f)
	}
	shown := shownNames(opt.Files)
	var nodes []manifest.Node
	for _, name := range slices.Sorted(maps.Keys(files)) {
		n, err := importNode(ctx, opt, dir, name, files[name], shown)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, *n)
	}
	return nodes, settle(nodes)
}

// node is one node's import.
type node struct {
	opt        Options
	name       string
	shown      map[string]string // names of files, by path
	cutter     *chunker.Cutter
	interfaces map[chunker.Interface]uint32
	origins    map[manifest.Origin]bool
	spans      []extent
	gaps       map[gapKey]*manifest.Gap
	seen       []os.FileInfo // of files that were opened
}

func importNode(ctx context.Context, opt Options, dir, name string, files []File, shown map[string]string) (*manifest.Node, error) {
	s := newSink(ctx, dir, name, opt.Upload)
	n := &node{
		opt: opt, name: name, shown: shown,
		cutter: chunker.NewCutter(chunker.CutterConfig{
			Stream: chunker.Packets,
			Header: chunker.Header{Node: name, Application: "pcapsule " + opt.Version},
			Hold:   Hold,
		}, s),
		interfaces: map[chunker.Interface]uint32{},
		origins:    map[manifest.Origin]bool{},
		gaps:       map[gapKey]*manifest.Gap{},
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
