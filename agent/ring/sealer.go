package ring

import (
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// job is what the sealer does: seal a part, or tell that it came this far.
type job struct {
	part    *part
	meta    chunker.Meta
	name    string
	barrier chan<- struct{}
}

// work is the sealer: what waits for the disk happens here and not where
// packets are read.
func (r *Ring) work() {
	defer close(r.done)
	for {
		select {
		case j := <-r.jobs:
			if j.barrier != nil {
				close(j.barrier)
				continue
			}
			r.seal(j)
			r.sealEnded(1)
		case <-r.wake:
			r.saveIfDue()
		case <-r.closed:
			r.sealEnded(len(r.jobs))
			return
		}
	}
}

// sealEnded tells those who wait for room that n parts fewer are to be sealed.
func (r *Ring) sealEnded(n int) {
	r.mu.Lock()
	r.sealing -= n
	r.mu.Unlock()
	r.progress.Broadcast()
}

func (r *Ring) seal(j job) {
	m := j.meta
	if err := j.part.seal(m, j.name); err != nil {
		r.opt.Logger.Error("a chunk is lost", "err", err, "records", m.Records)
		r.AddGap(Gap{
			Stream: m.Stream, Reason: Reason(err), From: manifest.Nanos(m.First), To: manifest.Nanos(m.Last) + 1,
			Count: m.Records, Detail: "could not be sealed",
		})
	}
	// Room for the next part is made here, not where packets are read.
	r.makeRoom(r.opt.PartSize, r.opt.Limit-r.opt.PartSize)
	r.saveIfDue()
}

// saveIfDue saves the ledger when it has changed and was not saved just now.
func (r *Ring) saveIfDue() {
	r.mu.Lock()
	since := r.opt.Now().Sub(r.saved)
	due := r.dirty && (since >= saveEvery || since < 0)
	r.mu.Unlock()
	if !due {
		return
	}
	err := r.save()
	r.mu.Lock()
	failed := r.trouble != nil
	r.trouble = err
	r.mu.Unlock()
	if (err != nil) != failed {
		if err != nil {
			r.opt.Logger.Warn("cannot save the ring's ledger; will go on trying", "err", err)
		} else {
			r.opt.Logger.Info("the ring's ledger is saved again")
		}
	}
}

// changed wakes the sealer to save what changed; r.mu is held.
func (r *Ring) changed() {
	r.dirty = true
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
