package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	probeWriters = 8
	probeRounds  = 2
	probeTime    = 30 * time.Second
)

// Probe tells whether an archive can be kept in s: whether of several Puts to one
// key at once exactly one wins, whether a later one loses, and whether what was
// put can be read and listed. It writes below "probe/", removes what it wrote, and
// ends in about half a minute whatever the store does.
//
// Who may not delete can do all but that: left is then the key of the one object
// that stays, the same each time.
func Probe(ctx context.Context, s Store) (left string, err error) {
	if v, ok := s.(Volume); ok {
		defer func() { _ = v.Restock() }() // on a full volume the probe takes from the reserve
	}
	limited, cancel := context.WithTimeoutCause(ctx, probeTime,
		fmt.Errorf("it did not answer within %v: check the network and the server", probeTime))
	defer cancel()
	if left, err = probeAll(limited, s); err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			err = context.Cause(limited)
		}
		return left, fmt.Errorf("store %s cannot be used: %w", Describe(s), err)
	}
	return left, nil
}

// ProbeDir is where Probe writes.
const ProbeDir = "probe/"

// probeLeft is the key for those who cannot delete.
const probeLeft = ProbeDir + "left"

func probeAll(ctx context.Context, s Store) (left string, err error) {
	// What is not there can be deleted by those who may.
	err = s.Delete(ctx, ProbeDir+rand.Text())
	if errors.Is(err, ErrForbidden) {
		return probeLeft, probeOnce(ctx, s, probeLeft)
	}
	for range probeRounds {
		if err != nil {
			break
		}
		err = probeAndClean(ctx, s)
	}
	return "", err
}

func probeAndClean(ctx context.Context, s Store) (err error) {
	key := ProbeDir + rand.Text()
	defer func() {
		// Also when ctx is over, so that a failed probe leaves no litter.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if derr := s.Delete(clean, key); derr != nil && err == nil {
			err = derr
		}
	}()
	return probeOnce(ctx, s, key)
}

// probeOnce probes with one key. Where an object is there before, all writers lose.
func probeOnce(ctx context.Context, s Store, key string) error {
	run := rand.Text()
	body := func(i int) []byte { return fmt.Appendf(nil, "%s, writer %d of %s\n", key, i, run) }
	var results [probeWriters]error
	var writers sync.WaitGroup
	for i := range results {
		writers.Go(func() { results[i] = s.Put(ctx, key, Freeing(body(i))) })
	}
	writers.Wait()

	var winners []int
	for i, err := range results {
		switch {
		case err == nil:
			winners = append(winners, i)
		case !errors.Is(err, ErrExist):
			return err
		}
	}
	got, err := ReadAll(ctx, s, key, 1024)
	if err != nil {
		return err
	}
	const advice = "use one that honours If-None-Match, such as MinIO, AWS S3 or a folder"
	switch {
	case len(winners) > 1:
		return fmt.Errorf("it overwrites objects: of %d writers of one key %d were told they won: %s",
			probeWriters, len(winners), advice)
	case len(winners) == 1 && !bytes.Equal(got, body(winners[0])):
		return fmt.Errorf("it overwrites objects: a writer was told it won and the object is another's: %s", advice)
	}
	// With no winner, the key was taken before, or the first answer to one got lost
	// and its repetition lost against itself; that is no fault of the store.
	if err := s.Put(ctx, key, Freeing([]byte("late"))); !errors.Is(err, ErrExist) {
		if err == nil {
			return fmt.Errorf("it overwrites objects: a second Put to a key succeeded: %s", advice)
		}
		return err
	}
	if again, err := ReadAll(ctx, s, key, 1024); err != nil || !bytes.Equal(again, got) {
		return cmp.Or(err, fmt.Errorf("it overwrites objects: a Put that was told it lost has changed one: %s", advice))
	}
	return probeListed(ctx, s, key, int64(len(got)))
}

func probeListed(ctx context.Context, s Store, key string, size int64) error {
	for info, err := range s.List(ctx, key) {
		if err != nil {
			return err
		}
		if info.Key == key && info.Size == size {
			return nil
		}
	}
	return errors.New("an object that was just written is not in its list: use a store with consistent lists")
}
