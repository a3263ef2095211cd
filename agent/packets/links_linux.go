package packets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A link is a network interface as the kernel describes it.
type link struct {
	index       int
	name        string
	description string
	hatype      uint16
	flags       uint32
	guessed     bool // the interface was gone before it could be looked up

	kind    string // "veth", "bridge"; empty of physical ones
	parent  int    // index of what it is on top of, or its other end
	foreign bool   // parent is in another network namespace
	master  int    // index of the bridge or bond that it is a port of
	port    uint16 // UDP port of a tunnel
	tap     bool   // of kind "tun", with Ethernet frames
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// A version is what a link was until a time: it was renamed then, or removed, or
// is still that, with forever.
type version struct {
	link
	until int64
}

// A table has the versions of each link, oldest first. It does not change.
type table map[int][]version

// at is the link with that index at a time, and until when.
func (t table) at(index int, when int64) (version, bool) {
	vs := t[index]
	for _, v := range vs {
		if when < v.until {
			return v, true
		}
	}
	if len(vs) == 0 {
		return version{}, false
	}
	// The time may be from before what came next was noticed.
	return vs[len(vs)-1], true
}

// present are the links that are there now, by index.
func (t table) present() []link {
	var out []link
	for _, index := range slices.Sorted(maps.Keys(t)) {
		if v := t[index][len(t[index])-1]; v.until == forever && !v.guessed {
			out = append(out, v.link)
		}
	}
	return out
}

const (
	// keepVersions is how long after its end a version is of use: packets that
	// were in the ring then have long been read.
	keepVersions = int64(time.Minute)
	// maxVersions of a link that changes all the time.
	maxVersions = 8
)

// links follows the interfaces of a network namespace.
type links struct {
	log  *slog.Logger
	now  func() int64
	news *waiter // netlink socket with the kernel's news

	current atomic.Pointer[table]

	mu       sync.Mutex
	requests int            // netlink socket for questions
	changed  func(t *table) // called with mu held after each change, when set
	rerouted func()         // called after news of addresses and routes, when set
}

// openLinks reads which interfaces there are. News of changes are kept from
// then on, and worked off by follow. Routes says whether those of addresses and
// routes are wanted, too.
func openLinks(log *slog.Logger, now func() int64, routes bool) (_ *links, err error) {
	l := &links{log: log, now: now, requests: -1}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	groups := uint32(unix.RTMGRP_LINK)
	if routes {
		groups |= unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	}
	news, err := openNetlink(groups)
	if err != nil {
		return nil, err
	}
	if l.news, err = newWaiter(news, "news of network interfaces"); err != nil {
		return nil, err
	}
	if l.requests, err = openNetlink(0); err != nil {
		return nil, err
	}
	l.current.Store(&table{})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l, l.reload()
}

func (l *links) table() *table { return l.current.Load() }

// at is the link with that index at a time, and until when that holds. One that
// is not known yet is looked up.
func (l *links) at(index int, when int64) (link, int64) {
	if v, ok := l.table().at(index, when); ok {
		return v.link, v.until
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reload(); err != nil {
		l.log.Warn("cannot list network interfaces", "error", err)
	}
	v, ok := l.table().at(index, when)
	if !ok {
		// It came and went before we could ask for its name.
		v = version{link{index: index, name: fmt.Sprintf("if%d", index), guessed: true}, forever}
		l.update([]link{v.link}, nil)
	}
	return v.link, v.until
}

// follow works off news until the context ends and stop is called.
func (l *links) follow(ctx context.Context) {
	buf := make([]byte, 1<<16)
	for ctx.Err() == nil {
		var got news
		var lost error
		err := l.news.wait(time.Time{}, func() bool {
			got, lost = readNews(l.news.fd, buf)
			return !errors.Is(lost, unix.EAGAIN)
		})
		if ctx.Err() != nil {
			return
		}
		if err = cmp.Or(err, lost); errors.Is(err, unix.EAGAIN) {
			continue // woken for nothing
		}
		l.mu.Lock()
		if err == nil {
			for i := range got.came {
				got.came[i].description = l.describe(got.came[i])
			}
			l.update(got.came, got.gone)
		} else {
			// News were lost; find out what they were. Those that wait are older,
			// and what took them back may be among the lost.
			l.log.Debug("listing all network interfaces anew", "error", err)
			l.discard(buf)
			if err := l.reload(); err != nil {
				l.log.Warn("cannot list network interfaces", "error", err)
			}
		}
		if l.rerouted != nil && (got.other || err != nil) {
			l.rerouted()
		}
		l.mu.Unlock()
	}
}

// discard reads the news that wait, and forgets them.
func (l *links) discard(buf []byte) {
	for range maxDiscard {
		if _, err := readNews(l.news.fd, buf); errors.Is(err, unix.EAGAIN) {
			return
		}
	}
}

// maxDiscard is more news than the socket's buffer can hold.
const maxDiscard = 1 << 16

// reload asks for all links and takes those that are not among them for gone.
// The caller holds mu.
func (l *links) reload() error {
	all, err := listLinks(l.requests)
	if err != nil {
		return err
	}
	there := map[int]bool{}
	for i := range all {
		all[i].description = l.describe(all[i])
		there[all[i].index] = true
	}
	var gone []int
	for _, old := range l.table().present() {
		if !there[old.index] {
			gone = append(gone, old.index)
		}
	}
	l.update(all, gone)
	return nil
}

// update puts a new table in place. The caller holds mu.
func (l *links) update(came []link, gone []int) {
	if len(came) == 0 && len(gone) == 0 {
		return
	}
	now := l.now()
	next := make(table, len(*l.table())+len(came))
	for index, vs := range *l.table() {
		vs = slices.DeleteFunc(slices.Clone(vs), func(v version) bool { return v.until < now-keepVersions })
		if len(vs) > 0 {
			next[index] = vs
		}
	}
	for _, index := range gone {
		if vs := next[index]; len(vs) > 0 {
			last := &vs[len(vs)-1]
			last.until = min(last.until, now)
		}
	}
	for _, link := range came {
		next.add(link, now)
	}
	l.current.Store(&next)
	if l.changed != nil {
		l.changed(&next)
	}
}

// add makes link the newest version, unless it says nothing new.
func (t table) add(l link, now int64) {
	vs := t[l.index]
	if n := len(vs); n > 0 {
		last := &vs[n-1]
		switch {
		case last.guessed:
			vs = vs[:n-1]
		case last.until != forever:
		case last.name == l.name && last.description == l.description && last.hatype == l.hatype:
			last.link = l
			return
		default:
			last.until = now
		}
	}
	vs = append(vs, version{l, forever})
	t[l.index] = vs[max(len(vs)-maxVersions, 0):]
}

// describe adds the driver to what netlink told of a link.
func (l *links) describe(k link) string {
	if k.description != "" || l.requests < 0 {
		return k.description
	}
	return driver(l.requests, k.name)
}

func (l *links) stop() { l.news.wake() }

func (l *links) close() {
	if l.news != nil {
		l.news.close()
	}
	if l.requests >= 0 {
		_ = unix.Close(l.requests)
		l.requests = -1
	}
}
