package pcapgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"pcapsule/internal/pcapng"
)

// Export writes the packets that req asks for to w, which it calls from one
// goroutine with writes of about 256 KiB. A request that cannot be met is refused
// before the first byte: UnknownNodeError, UnknownInterfaceError,
// MixedLinkTypesError, UnknownNameError, ErrNoKubernetes, ErrWindow. A window without packets is a valid, empty
// capture.
//
// After an error what has been written is not a whole capture, and readers say
// so. An error that wraps chunker.ErrDamaged is the archive's.
func Export(ctx context.Context, w io.Writer, src Source, req Request) (Stats, error) {
	p, err := makePlan(ctx, src, req)
	if err != nil {
		return Stats{}, fmt.Errorf("export: %w", err)
	}
	k, err := withKubernetes(ctx, src, &req, p)
	if err != nil {
		return Stats{}, fmt.Errorf("export: %w", err)
	}
	out := newOutput(w)
	chunks, err := export(ctx, out, src, req.Format, p, k)
	stats := Stats{Records: out.records, Bytes: out.written, Chunks: chunks, Drops: p.drops}
	if err != nil {
		return stats, fmt.Errorf("export: %w", err)
	}
	if stats.Records == 0 {
		stats.Empty = p.empty(src.Manifest, &req)
	}
	return stats, nil
}

// kubernetes is what an export takes from the snapshot's kubernetes stream. The
// zero kubernetes is nothing.
type kubernetes struct {
	naming  *naming
	names   []pcapng.Name
	journal *journal
}

// withKubernetes reads the kubernetes stream, if the request has a use for it. Its
// errors are the caller's fault (UnknownNameError, ErrNoKubernetes), or a
// NamesError.
func withKubernetes(ctx context.Context, src Source, req *Request, p *plan) (k kubernetes, err error) {
	annotate := req.Format == PcapNG && !req.Plain
	switch {
	case !annotate && !req.byName():
		return k, nil
	case !hasKubernetes(src.Manifest) && req.byName():
		return k, fmt.Errorf("%w, by which pods, namespaces and services could be told", ErrNoKubernetes)
	case !hasKubernetes(src.Manifest):
		return k, nil
	}
	t, err := KubernetesTable(ctx, src, p.from, p.to)
	if err != nil {
		return k, err
	}
	c, err := newChoice(t, req)
	if err != nil {
		return k, err
	}
	p.only = req.only()
	k.naming = newNaming(t, c, annotate, src.Manifest, p)
	if annotate {
		k.names = hostNames(t, p.from, p.to)
		k.journal = newJournal(t, c, req, src.Manifest)
	}
	return k, nil
}

func export(ctx context.Context, out *output, src Source, f Format, p *plan, k kubernetes) (chunks int, err error) {
	d := newDepot(src.Store)
	defer d.close()

	stages := []stage{selecting}
	if k.naming != nil {
		stages = append(stages, k.naming.apply)
	}
	if f == Pcap {
		stages = append(stages, classic)
	}
	running, cancel := context.WithCancel(ctx)
	s := startScheduler(running, d, p, stages, runtime.GOMAXPROCS(0))
	defer s.stop()
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.fail(stopped(ctx)) })()

	if err := out.begin(f, src.Manifest, p, k.names); err != nil {
		return 0, err
	}
	m := &merger{plan: p, sched: s, out: out, journal: k.journal}
	if err := m.run(); err != nil {
		if ctx.Err() != nil {
			err = stopped(ctx)
		}
		return m.chunks, err
	}
	return m.chunks, out.end(f, p)
}

// stopped says that ctx is done, and why.
func stopped(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
