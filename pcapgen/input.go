package pcapgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// A batch is some consecutive records of an input, ready to be copied to the
// output: those from next on, up to the end of Ends, which lie back to back.
type batch struct {
	chunker.Batch
	interfaces []uint32 // of each record, by the output's numbers
	next       int      // first record that was not written yet
	other      []byte   // to which a stage that makes records longer writes them
}

// start is where record i begins in Buf.
func (b *batch) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return b.Ends[i-1]
}

// A stage changes the records of a batch on their way from a chunk to the merge.
// It may drop records and rewrite them in place, and keeps their order. Stages
// run in the workers, several inputs at once. This is where filters and
// annotations go: between selecting and formatting.
type stage func(in *input, b *batch) error

// An input is a chunk from when it is fetched.
type input struct {
	chunk
	node    *node
	journal *journal // of the input that is no chunk

	// Owned by the goroutine that fetches the chunk, then by the worker that
	// decodes its next batch, and when the chunk is done by the merge.
	object  object
	reader  *chunker.Reader
	numbers []int32  // of its interfaces in the output; notWanted for those not chosen
	counts  []uint64 // records in the output, by its interfaces
	past    bool     // the rest is after the window

	// Guarded by scheduler.mu.
	need  int64    // the merge needs another batch when it reaches this time
	queue []*batch // decoded, and not merged yet
	done  bool     // nothing comes after queue
}

// errDone ends an input.
var errDone = errors.New("nothing more of this chunk")

// decode fills b with records, one at least, or returns errDone. The chunk was
// then read to its end, also where that is after the window, and is what its
// inventory says.
func (in *input) decode(b *batch, stages []stage) error {
	for {
		var err error
		if in.past {
			if err = in.reader.Next(&b.Batch); err == nil {
				err = in.check(b)
			}
			b.next = len(b.Ends) // none of it is wanted
		} else {
			err = in.fill(b, stages)
		}
		if err == io.EOF {
			err = in.account()
		}
		switch {
		case errors.Is(err, errDone):
			return errDone
		case err != nil:
			return fmt.Errorf("chunk %s: %w", in.key(), err)
		case b.next < len(b.Ends):
			return nil
		}
	}
}

// account holds a chunk that was read to its end against its inventory, of which
// the export tells the drops. It returns errDone when they agree.
func (in *input) account() error {
	said := manifest.Entry{
		Size: in.size, RawSize: in.rawSize, Records: in.records, Drops: in.drops,
		First: manifest.Nanos(in.first), Last: manifest.Nanos(in.last),
	}
	if err := said.Describes(in.reader.Meta()); err != nil {
		return fmt.Errorf("%w: %w", chunker.ErrDamaged, err)
	}
	return errDone
}

// fill reads the next batch of the chunk, which it verifies first, and applies
// the stages. It returns io.EOF at the chunk's end.
func (in *input) fill(b *batch, stages []stage) (err error) {
	if in.reader == nil {
		if in.reader, err = chunker.Open(in.object, in.size, in.hash, chunker.Packets); err != nil {
			return err
		}
	}
	if err := in.reader.Next(&b.Batch); err != nil {
		return err
	}
	if err := in.check(b); err != nil {
		return err
	}
	b.next = 0
	for _, s := range stages {
		if err := s(in, b); err != nil {
			return err
		}
	}
	return nil
}

// check holds the records against the inventory, which the merge went by when it
// decided that this chunk was not needed before.
func (in *input) check(b *batch) error {
	if b.Times[0] < in.first || b.Times[len(b.Times)-1] > in.last {
		return fmt.Errorf("%w: it has packets from before or after the times in its inventory", chunker.ErrDamaged)
	}
	return nil
}

// close gives back what the chunk's bytes occupied.
func (in *input) close() {
	in.object.release()
	in.object, in.reader = nil, nil
}

// selecting drops what is outside the window or of an interface that was not
// chosen, and gives the others the output's numbers.
func selecting(in *input, b *batch) error {
	if err := in.number(); err != nil {
		return err
	}
	lo, hi := 0, len(b.Times)
	if b.Times[0] < in.node.from {
		lo = sort.Search(hi, func(i int) bool { return b.Times[i] >= in.node.from })
	}
	if b.Times[hi-1] >= in.node.to {
		hi = sort.Search(hi, func(i int) bool { return b.Times[i] >= in.node.to })
		in.past = true
	}
	if lo >= hi {
		b.next = len(b.Ends)
		return nil
	}
	b.Ends, b.Times = b.Ends[:hi], b.Times[:hi]
	if cap(b.interfaces) < hi {
		b.interfaces = make([]uint32, cap(b.Ends))
	}
	b.interfaces = b.interfaces[:hi]

	le := binary.LittleEndian
	start := b.start(lo)
	kept, to := lo, start
	for i := lo; i < hi; i++ {
		end := b.Ends[i]
		field := b.Buf[start+pcapng.OffsetInterface:][:4]
		local := le.Uint32(field)
		if number := in.numbers[local]; number != notWanted {
			in.counts[local]++
			le.PutUint32(field, uint32(number))
			if to != start {
				copy(b.Buf[to:], b.Buf[start:end])
			}
			to += end - start
			b.Ends[kept], b.Times[kept], b.interfaces[kept] = to, b.Times[i], uint32(number)
			kept++
		}
		start = end
	}
	b.Ends, b.Times, b.interfaces = b.Ends[:kept], b.Times[:kept], b.interfaces[:kept]
	b.next = lo
	return nil
}

// number looks up the interfaces that were described since the last batch.
func (in *input) number() error {
	known := in.reader.Interfaces()
	for _, i := range known[len(in.numbers):] {
		n, ok := in.node.numbers[i]
		if !ok {
			return fmt.Errorf("%w: it describes interface %q (%s), which the manifest does not list for node %s",
				chunker.ErrDamaged, i.Name, linkTypeName(i.LinkType), in.node.name)
		}
		in.numbers = append(in.numbers, n)
		in.counts = append(in.counts, 0)
	}
	return nil
}

// Classic pcap, nanosecond variant.
const (
	pcapMagic  = 0xa1b23c4d
	pcapHeader = 24 // bytes of the file header
	pcapRecord = 16 // bytes of a record header
)

// classic turns packet blocks into records of classic pcap, in place: those are
// shorter always.
func classic(_ *input, b *batch) error {
	le := binary.LittleEndian
	start := b.start(b.next)
	to := start
	for i := b.next; i < len(b.Ends); i++ {
		block := b.Buf[start:b.Ends[i]]
		start = b.Ends[i]
		caplen, origlen := le.Uint32(block[pcapng.OffsetCapLen:]), le.Uint32(block[pcapng.OffsetOrigLen:])
		seconds := b.Times[i] / 1e9
		if b.Times[i] < 0 || seconds >= 1<<32 {
			return fmt.Errorf("a classic pcap cannot hold a packet of %s: use --format pcapng", clock(b.Times[i]))
		}
		record := b.Buf[to:]
		copy(record[pcapRecord:], block[pcapng.OffsetData:pcapng.OffsetData+caplen])
		le.PutUint32(record, uint32(seconds))
		le.PutUint32(record[4:], uint32(b.Times[i]%1e9))
		le.PutUint32(record[8:], caplen)
		le.PutUint32(record[12:], origlen)
		to += pcapRecord + caplen
		b.Ends[i] = to
	}
	return nil
}
