package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"pcapsule/agent/packets"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const (
	pollWait  = 10 * time.Second // that the hub may keep a poll
	pollFloor = 100 * time.Millisecond

	// newsPause is how soon after warnings that changed the hub is told of more.
	newsPause = time.Second

	minBackoff = 200 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// serve polls the hub and does what it asks, until the context ends. A hub that
// is away is tried again and again, with pauses that grow; capture does not
// notice.
func (a *agent) serve(ctx context.Context) {
	defer a.work.wait()
	away := false
	pause := minBackoff
	wait := time.Duration(0) // the first poll only compares clocks
	for ctx.Err() == nil {
		began := a.now()
		answer, err := a.poll(ctx, wait)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNews):
			sleep(ctx, newsPause)
			continue
		case err != nil:
			if !away {
				a.log.Warn("the hub cannot be asked; capture goes on", "err", err)
			}
			away = true
			pause = a.backoff(ctx, pause)
			continue
		case away:
			a.log.Info("the hub answers again")
			away = false
		}
		pause, wait = minBackoff, pollWait
		for _, session := range answer.Unpin {
			a.drop(session)
		}
		for _, task := range answer.Tasks {
			a.start(ctx, task)
		}
		if a.now().Sub(began) < pollFloor { // an answer at once, maybe again and again
			sleep(ctx, pollFloor)
		}
	}
}

// errNews ends a poll while the hub keeps it: there is something to tell.
var errNews = errors.New("warnings have changed")

// poll tells the hub this node's state, and compares clocks on the way. It is
// errNews when what the node warns of changes meanwhile.
func (a *agent) poll(ctx context.Context, wait time.Duration) (*api.PollAnswer, error) {
	u := a.ring.Usage()
	req := api.PollRequest{
		Clock:      a.clock.at(a.now().UnixNano()),
		Versions:   a.versions,
		Interfaces: states(a.source.Interfaces()),
		Ring: api.Ring{
			Limit: u.Limit, Used: u.Used, Pinned: u.Pinned, Chunks: u.Chunks, Drops: a.source.Stats().Drops,
		},
		Pins: a.ring.Pins(), Streams: a.ring.Streams(), Warnings: a.warn.now(),
		Wait: manifest.Nanos(wait),
	}
	if req.Pins == nil {
		req.Pins = []string{}
	}
	if u.Oldest > 0 {
		req.Ring.Oldest = time.Unix(0, u.Oldest).UTC()
	}
	sent := a.now()
	req.Time = manifest.NanosOf(sent)
	polling, cancel := context.WithCancelCause(ctx)
	over := make(chan struct{})
	defer func() { cancel(nil); <-over }()
	go func() {
		defer close(over)
		select {
		case <-a.warn.changed:
			cancel(errNews)
		case <-polling.Done():
		}
	}()
	answer, err := a.client.Poll(polling, a.cfg.Node, req)
	switch {
	case err != nil && errors.Is(context.Cause(polling), errNews):
		return nil, errNews
	case err != nil:
		return nil, err
	}
	a.clock.add(sent.UnixNano(), int64(answer.Received), int64(answer.Sent), a.now().UnixNano())
	return answer, nil
}

// states lists interfaces with their states, in the order of manifests.
func states(list []packets.Interface) []api.Interface {
	out := make([]api.Interface, 0, len(list))
	for _, i := range list {
		state := api.InterfaceUp
		switch {
		case i.Gone:
			state = api.InterfaceGone
		case !i.Up:
			state = api.InterfaceDown
		}
		out = append(out, api.Interface{Interface: clean(i.Interface), State: state})
	}
	slices.SortStableFunc(out, func(a, b api.Interface) int { return manifest.CompareInterfaces(a.Interface, b.Interface) })
	return out
}

// clean makes the texts of an interface fit for a manifest.
func clean(i chunker.Interface) chunker.Interface {
	i.Name, i.Description = manifest.Clean(i.Name), manifest.Clean(i.Description)
	return i
}

func sorted(list []chunker.Interface) []chunker.Interface {
	slices.SortFunc(list, manifest.CompareInterfaces)
	return slices.Compact(list)
}

// backoff pauses, with jitter so that the agents of a cluster do not come back
// all at once, and returns how long the next pause is to be.
func (a *agent) backoff(ctx context.Context, pause time.Duration) time.Duration {
	sleep(ctx, pause/2+rand.N(pause))
	return min(2*pause, maxBackoff)
}

// sleep waits for d, or until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// over tells whether err says that a session has ended for this node, and
// whether another carries on, for which its pins are kept until the hub says.
func over(err error) (ended, carried bool) {
	var e *api.Error
	if !errors.As(err, &e) {
		return false, false
	}
	switch e.Status {
	case http.StatusNotFound, http.StatusConflict, http.StatusGone:
		return true, e.Successor != ""
	}
	return false, false
}

// leaveOutHub finds the hub's addresses, whose traffic is not recorded: what its
// clients export would be recorded again. It leaves them out, and returns them for
// where that cannot be told the kernel later.
func (a *agent) leaveOutHub(ctx context.Context) []netip.AddrPort {
	list := slices.Clone(a.cfg.Exclude)
	u, err := url.Parse(a.client.Base())
	if err != nil {
		return list
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return list
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		a.log.Info("the hub's name is not known yet: what others exchange with it will be recorded", "err", err)
	}
	for _, ip := range addrs {
		list = append(list, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	for _, hub := range list {
		a.cfg.Own.LeaveOut(packets.TCP, hub) // for as long as this agent runs
	}
	return list
}
