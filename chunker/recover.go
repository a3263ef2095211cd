package chunker

import (
	"errors"
	"fmt"
	"io"
)

// Recover turns what a dead process left of a Part into a sealed chunk in sink.
// The first size bytes of src may end anywhere, and anything may follow what was
// written. Recover keeps the records of all lz4 blocks that are whole, up to the
// first that is not, and the address is that of what it writes itself. When it
// finds no record it returns a Meta without any, and seals nothing.
//
// How many packets were dropped is known at the end of a chunk only: a torn one
// has none.
func Recover(src io.ReaderAt, size int64, stream string, sink Sink) (Meta, error) {
	r := &Reader{src: src, size: size, stream: stream, torn: true}
	if err := r.frameHeader(); err != nil {
		return Meta{}, ignoreDamage(err)
	}
	var b Batch
	if err := r.Next(&b); err != nil {
		return Meta{}, ignoreDamage(err)
	}
	part, err := sink.Create(stream)
	if err != nil {
		return Meta{}, fmt.Errorf("recover a chunk: %w", err)
	}
	meta, err := rewrite(r, &b, part)
	if err != nil {
		return Meta{}, fmt.Errorf("recover a chunk: %w", errors.Join(err, part.Abort()))
	}
	if err := part.Seal(meta); err != nil {
		return Meta{}, fmt.Errorf("recover a chunk: %w", err)
	}
	return meta, nil
}

// rewrite writes b, and what r has after it, as a chunk. Its lz4 blocks have the
// same bounds, so it is as large as what it replaces, or smaller.
func rewrite(r *Reader, b *Batch, out io.Writer) (Meta, error) {
	w, err := NewWriter(out, r.stream, r.header)
	if err != nil {
		return Meta{}, err
	}
	w.frame.always = true
	var list []held
	for err == nil {
		for i, known := len(w.interfaces), r.Interfaces(); i < len(known); i++ {
			w.addInterface(known[i])
		}
		list = list[:0]
		start := uint32(0)
		for i, end := range b.Ends {
			list = append(list, held{b.Times[i], start, end - start})
			start = end
		}
		if n, err := w.encoded(b.Buf, list, MaxSize); err != nil {
			return Meta{}, err
		} else if n < len(list) {
			return Meta{}, ErrFull
		}
		w.endBlock()
		err = r.Next(b)
	}
	if err := ignoreDamage(err); err != nil && !errors.Is(err, io.EOF) {
		return Meta{}, err
	}
	return w.Close(r.meta.Drops)
}

// ignoreDamage returns the errors that are not about the chunk's bytes.
func ignoreDamage(err error) error {
	if errors.Is(err, ErrDamaged) {
		return nil
	}
	return err
}
