package pcapgen

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

const (
	outputBuffer = 256 << 10
	idleBytes    = 64 << 10 // buffered, from which on it pays to write while the merge waits

	// heldBack is how many bytes are kept until more follow, so that what has
	// been written ends inside a block. No block is shorter.
	heldBack = 8
)

// An output gathers what the merge writes. Its errors stick.
type output struct {
	w       io.Writer
	buf     []byte
	written int64
	records uint64
	err     error
}

func newOutput(w io.Writer) *output {
	return &output{w: w, buf: make([]byte, 0, outputBuffer)}
}

// write adds whole blocks, which may be more than the buffer was made for.
func (o *output) write(b []byte) error {
	if len(b) > cap(o.buf)-len(o.buf) {
		o.flush(heldBack)
	}
	o.buf = append(o.buf, b...)
	return o.err
}

// idle is called before the merge waits for the next batch of a chunk.
func (o *output) idle() error {
	if len(o.buf) >= idleBytes {
		o.flush(heldBack)
	}
	return o.err
}

// pause is called before the merge waits for a chunk. That may take long, so
// what there is leaves now; but not the header alone, so that a first chunk that
// is broken or missing is an error before the first byte.
func (o *output) pause() error {
	if o.records > 0 {
		o.flush(heldBack)
	}
	return o.err
}

// flush writes all but the last keep bytes.
func (o *output) flush(keep int) {
	if n := len(o.buf) - keep; n > 0 {
		o.send(o.buf[:n])
		o.buf = append(o.buf[:0], o.buf[n:]...)
	}
}

func (o *output) send(b []byte) {
	if o.err != nil || len(b) == 0 {
		return
	}
	n, err := o.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	o.written += int64(n)
	if err != nil {
		o.err = fmt.Errorf("write the export: %w", err)
	}
}

// begin writes what stands before the packets.
func (o *output) begin(f Format, m *manifest.Manifest, p *plan, names []pcapng.Name) error {
	if f == Pcap {
		return o.write(appendPcapHeader(nil, p))
	}
	h := pcapng.SectionHeader{Application: "pcapsule", Comment: comment(m, p)}
	h.Hardware, h.OS = p.captured()
	b := pcapng.AppendSectionHeader(nil, h)
	for _, i := range p.interfaces {
		b = pcapng.AppendInterface(b, i.describe(len(p.nodes)))
	}
	return o.write(pcapng.AppendNameResolution(b, names))
}

// end writes what stands after them, and everything that was held back.
func (o *output) end(f Format, p *plan) error {
	if f == PcapNG {
		var b []byte
		for number, i := range p.interfaces {
			s := pcapng.Statistics{
				Interface: uint32(number), Time: p.to, Start: &p.from, End: &p.to,
				Received: &i.records, OSDrop: i.drops,
			}
			b = pcapng.AppendStatistics(b, &s)
		}
		if err := o.write(b); err != nil {
			return err
		}
	}
	o.flush(0)
	return o.err
}

// comment says where the packets come from, and what is known to be missing.
func comment(m *manifest.Manifest, p *plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "snapshot %s (%s), from %s to %s", m.Name, m.ID, clock(p.from), clock(p.to))
	if m.Status != manifest.Completed {
		fmt.Fprintf(&b, "; %s", m.Status)
		if len(m.Reasons) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(m.Reasons, "; "))
		}
	}
	if by := distinct(p.origins(), func(o *manifest.Origin) string { return o.Application }); len(by) > 0 {
		fmt.Fprintf(&b, "; captured by %s", enumerate(by, 5))
	}
	if said := distinct(p.origins(), func(o *manifest.Origin) string { return o.CaptureComment }); len(said) > 0 {
		fmt.Fprintf(&b, "; with the comment %s", enumerate(said, 5))
	}
	if len(p.only) > 0 {
		fmt.Fprintf(&b, "; only %s", enumerate(p.only, 20))
	}
	return b.String()
}

// describe is an interface as the output describes it. Nodes have interfaces of
// the same names, so that where there are several nodes, the name says which.
func (i *outInterface) describe(nodes int) pcapng.Interface {
	name, description := i.Name, "node "+i.node.Name
	if nodes > 1 {
		name = i.node.Name + ":" + i.Name
	}
	if i.Description != "" {
		description += ", " + i.Description
	}
	d := pcapng.Interface{
		LinkType: i.LinkType, SnapLen: chunker.SnapLen, TSResol: pcapng.Nanoseconds,
		Name: name, Description: description,
		OS: strings.TrimSpace(i.node.Versions.OS + " " + i.node.Versions.Kernel),
	}
	i.originate(&d)
	return d
}

// appendPcapHeader appends the file header of a classic pcap. One without any
// interface is of Ethernet.
func appendPcapHeader(dst []byte, p *plan) []byte {
	linkType := uint16(1)
	if len(p.interfaces) > 0 {
		linkType = p.interfaces[0].LinkType
	}
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, pcapMagic)
	dst = le.AppendUint16(dst, 2)
	dst = le.AppendUint16(dst, 4)
	dst = le.AppendUint64(dst, 0) // time zone and accuracy, always 0
	dst = le.AppendUint32(dst, chunker.SnapLen)
	return le.AppendUint32(dst, uint32(linkType))
}
