package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const (
	uploads = 4                 // chunks that are sent at a time; each is in memory meanwhile
	batch   = api.MaxGrants / 4 // chunks that are placed at a time: small, so that sending starts soon
	persist = 30 * time.Second  // of one call, before the whole is looked at anew
	insist  = 10 * time.Second  // of one upload, before the hub is told that it fails
)

// uploader brings the chunks of one session into the store.
type uploader struct {
	a       *agent
	session string
	report  *reporter
	buffers chan []byte // that held chunks, to hold others; as long as the uploader
}

func (a *agent) uploader(session string, report *reporter) *uploader {
	return &uploader{a: a, session: session, report: report, buffers: make(chan []byte, uploads)}
}

// load reads a chunk of the ring. The caller releases its bytes, also after an
// error.
func (u *uploader) load(c ring.Chunk) (b []byte, sum [sha256.Size]byte, err error) {
	select {
	case b = <-u.buffers:
	default:
	}
	return u.a.ring.Load(c, b)
}

func (u *uploader) release(b []byte) {
	select {
	case u.buffers <- b:
	default:
	}
}

// chunks uploads what the store lacks of the chunks, and returns the inventory's
// entries of all that are sound. Damaged ones leave the ring, and a gap there.
func (u *uploader) chunks(ctx context.Context, list []ring.Chunk) ([]manifest.Entry, error) {
	var mu sync.Mutex
	var entries []manifest.Entry
	for group := range slices.Chunk(list, batch) {
		sound := group[:0:0]
		var req api.GrantRequest
		for _, c := range group {
			o, err := u.describe(c)
			if err != nil {
				return nil, err
			}
			if o == nil {
				continue
			}
			sound = append(sound, c)
			req.Objects = append(req.Objects, *o)
		}
		if len(sound) == 0 {
			continue
		}
		answer, err := u.a.client.Grants(api.Patiently(ctx, persist), u.session, u.a.cfg.Node, req)
		if err != nil {
			return nil, fmt.Errorf("ask where chunks go: %w", err)
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(uploads)
		for i, c := range sound {
			o, place := req.Objects[i], answer.Placements[i]
			g.Go(func() error {
				key, err := u.chunk(ctx, c, o, place)
				if err != nil || key == "" {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				entries = append(entries, manifest.Entry{
					Key: key, Size: c.Size, RawSize: c.RawSize, SHA256: o.SHA256,
					First: manifest.Nanos(c.First), Last: manifest.Nanos(c.Last), Records: c.Records, Drops: c.Drops,
				})
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// describe is what the hub is told of a chunk; nil when it is damaged.
func (u *uploader) describe(c ring.Chunk) (*api.Object, error) {
	unseen := u.a.ring.Unseen(c)
	sum, ok := u.a.ring.SHA256(c)
	if !ok {
		var b []byte
		var err error
		b, sum, err = u.load(c)
		defer u.release(b)
		if err != nil {
			return nil, u.damaged(c, err)
		}
	}
	return &api.Object{Hash: c.Hash, SHA256: hex.EncodeToString(sum[:]), Size: c.Size, Kind: manifest.KindChunk, Ext: chunker.Ext(c.Stream), New: unseen}, nil
}

// chunk uploads a chunk unless it is in the store, and returns its key; none when
// the chunk turns out to be damaged.
func (u *uploader) chunk(ctx context.Context, c ring.Chunk, o api.Object, place api.Placement) (string, error) {
	if place.Grant == nil {
		u.report.done(c.Size, 0)
		return place.Key, nil
	}
	b, _, err := u.load(c)
	defer u.release(b)
	if err != nil {
		return "", u.damaged(c, err)
	}
	key, err := u.bring(ctx, o, &place, b)
	if err != nil {
		return "", fmt.Errorf("upload chunk %s: %w", c.Hash, err)
	}
	u.report.done(c.Size, c.Size)
	return key, nil
}

// damaged takes a chunk that could not be loaded out of ring and report. Any
// other error than damage it returns.
func (u *uploader) damaged(c ring.Chunk, err error) error {
	if !errors.Is(err, chunker.ErrDamaged) {
		return err
	}
	u.a.log.Error("a chunk of the ring is left out", "chunk", c.Hash, "err", err)
	u.a.ring.Damaged(c)
	u.report.without(c.Size)
	return nil
}

// bring puts bytes into the store, trying again until the context ends, and
// returns their key.
func (u *uploader) bring(ctx context.Context, o api.Object, place *api.Placement, b []byte) (string, error) {
	pause := minBackoff
	fresh := place == nil
	return u.a.client.Bring(api.Patiently(ctx, insist), u.session, u.a.cfg.Node, o, bytes.NewReader(b), place, func(err error) bool {
		// A grant may expire while others are used; a fresh one may not.
		if (fresh || !errors.Is(err, api.ErrGrantOver)) && u.report.trouble(err) {
			u.a.log.Warn("upload failed; trying again", "session", u.session, "object", o.Hash, "err", err)
		}
		fresh = true
		pause = u.a.backoff(ctx, pause)
		return ctx.Err() == nil
	})
}
