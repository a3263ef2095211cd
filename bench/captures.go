//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"pcapsule/internal/capfile"
)

// A traffic is real packets, in the order in which they were captured. They are
// Ethernet frames, all of them.
type traffic struct {
	name   string // what is special about it
	source string // where it comes from
	frames [][]byte
	bytes  int64 // of frames
}

func (t *traffic) String() string {
	return fmt.Sprintf("%s (%s: %d packets of %d bytes on average)", t.name, t.source, len(t.frames), t.bytes/int64(len(t.frames)))
}

// traffics reads the captures from the user's cache folder, and fetches them
// first where they are not there. Whoever has no Debian or Ubuntu can put
// captures there.
func traffics(ctx context.Context) ([]traffic, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	var all []traffic
	for _, t := range []struct{ name, source, folder, script string }{
		{"small packets", "pathspider's real.pcap", "small", fetchPathspider},
		{"all sizes", "the captures of nDPI's tests", "all", fetchNDPI},
	} {
		dir := filepath.Join(cache, "pcapsule", "bench", t.folder)
		files, err := captureFiles(dir)
		if err == nil && len(files) == 0 {
			if _, err = do(ctx, "", "sh", "-c", t.script, "sh", dir); err == nil {
				files, err = captureFiles(dir)
			}
		}
		if err == nil && len(files) == 0 {
			err = errors.New("there are none")
		}
		if err != nil {
			return nil, fmt.Errorf("captures for %q: %w: put pcap files of Ethernet into %s", t.name, err, dir)
		}
		read := traffic{name: t.name, source: t.source}
		for _, f := range files {
			if err := read.add(f); err != nil {
				return nil, err
			}
		}
		if len(read.frames) == 0 {
			return nil, fmt.Errorf("the captures in %s hold no Ethernet frame", dir)
		}
		all = append(all, read)
	}
	return all, nil
}

const fetchPathspider = `
set -e
mkdir -p "$1"
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
cd "$t"
apt-get -qq -o APT::Sandbox::User=root download pathspider ||
	{ apt-get -qq update; apt-get -qq -o APT::Sandbox::User=root download pathspider; }
dpkg-deb -x pathspider_*.deb .
find . -name real.pcap -exec cp {} "$1" \;
`

// The captures are in the source package, 127 MB. Lists of source packages are
// fetched on the side, so that the machine's own setup stays as it is.
const fetchNDPI = `
set -e
mkdir -p "$1"
t=$(mktemp -d)
trap 'rm -rf "$t"' EXIT
cd "$t"
mkdir lists cache sources
for f in /etc/apt/sources.list.d/*.sources; do
	[ ! -f "$f" ] || sed 's/^Types:.*/Types: deb-src/' "$f" > sources/"${f##*/}"
done
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
	[ ! -f "$f" ] || sed -n 's/^deb\(-src\)\{0,1\} /deb-src /p' "$f" > sources/"${f##*/}"
	[ ! -f sources/sources.list ] || mv sources/sources.list sources/main.list
done
apt="apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=$t/none -o Dir::Etc::sourceparts=$t/sources
	-o Dir::State::lists=$t/lists -o Dir::Cache=$t/cache"
$apt update || true # other sources than the distribution's may have no source packages
$apt source --tar-only --download-only ndpi
tar -xf ndpi_*.orig.tar.* --wildcards '*/tests/pcap/*'
find . -path '*/tests/pcap/*' \( -name '*.pcap' -o -name '*.pcapng' \) -exec cp {} "$1" \;
`

func captureFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	slices.Sort(files)
	return files, err
}

// maxFrame is the longest frame that is taken: captures of fuzzers hold absurd
// ones.
const maxFrame = 65535

// add reads the Ethernet frames of a capture file.
func (t *traffic) add(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, capfile.ErrTruncated) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if r.Interface(p.Interface).LinkType == 1 && len(p.Data) > 0 && len(p.Data) <= maxFrame {
			t.frames = append(t.frames, bytes.Clone(p.Data))
			t.bytes += int64(len(p.Data))
		}
	}
}

// A pcapWriter writes a classic capture file of nanoseconds.
type pcapWriter struct {
	w   *bufio.Writer
	buf []byte
}

func newPcapWriter(w io.Writer) *pcapWriter {
	p := &pcapWriter{w: bufio.NewWriterSize(w, 64<<10)}
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(b, 262144)
	b = le.AppendUint32(b, 1)
	p.w.Write(b) // an error stays, and flush returns it
	return p
}

func (p *pcapWriter) packet(nanos int64, frame []byte) {
	le := binary.LittleEndian
	b := le.AppendUint32(p.buf[:0], uint32(nanos/1e9))
	b = le.AppendUint32(b, uint32(nanos%1e9))
	b = le.AppendUint32(b, uint32(len(frame)))
	b = le.AppendUint32(b, uint32(len(frame)))
	p.buf = b
	p.w.Write(b)
	p.w.Write(frame)
}

func (p *pcapWriter) flush() error { return p.w.Flush() }

// blockSize is what a frame takes in a pcapng file.
func blockSize(frame []byte) int64 { return 32 + int64(len(frame)+3)/4*4 }

// startTime is that of the first packet of every capture that is written.
const startTime = 1_700_000_000_000_000_000

// writeLoop writes frames over and over, from time at on, a microsecond apart,
// until they take size bytes as pcapng. Each goes to the writer that to chooses.
// It returns the time of the next.
func (t *traffic) writeLoop(at, size int64, to func() *pcapWriter) int64 {
	for size > 0 {
		for _, f := range t.frames {
			to().packet(at, f)
			at += 1000
			if size -= blockSize(f); size <= 0 {
				break
			}
		}
	}
	return at
}

// writeFile writes all frames once.
func (t *traffic) writeFile(name string) error {
	_, err := t.writeLong(name, t.bytes)
	return err
}

// writeLong writes all frames over and over until they are size bytes or a little
// more, and returns how many.
func (t *traffic) writeLong(name string, size int64) (bytes int64, err error) {
	f, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	w := newPcapWriter(f)
	for at := int64(startTime); bytes < size; bytes += t.bytes {
		for _, frame := range t.frames {
			w.packet(at, frame)
			at += 1000
		}
	}
	return bytes, errors.Join(w.flush(), f.Close())
}
