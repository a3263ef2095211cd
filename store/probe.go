package store

import (
	"bytes"
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
// put can be read, listed and deleted. It writes below "probe/", removes what it
// wrote, and ends in about half a minute whatever the store does.
func Probe(ctx context.Context, s Store) error {
	limited, cancel := context.WithTimeoutCause(ctx, probeTime,
		fmt.Errorf("it did not answer within %v: check the network and the server", probeTime))
	defer cancel()
	for range probeRounds {
		if err := probeOnce(limited, s); err != nil {
			if limited.Err() != nil && ctx.Err() == nil {
				err = context.Cause(limited)
			}
			return fmt.Errorf("store %s cannot be used: %w", Describe(s), err)
		}
	}
	return nil
}

func probeOnce(ctx context.Context, s Store) (err error) {
	key := "probe/" + rand.Text()
	defer func() {
		// Also when ctx is over, so that a failed probe leaves no litter.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if derr := s.Delete(clean, key); derr != nil && err == nil {
			err = derr
		}
	}()
	body := func(i int) []byte { return fmt.Appendf(nil, "%s, writer %d\n", key, i) }
	var results [probeWriters]error
	var writers sync.WaitGroup
	for i := range results {
		writers.Go(func() { results[i] = s.Put(ctx, key, Bytes(body(i))) })
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
	// With no winner, the first answer to one got lost and its repetition lost
	// against itself; that is no fault of the store.
	if err := s.Put(ctx, key, Bytes([]byte("late"))); !errors.Is(err, ErrExist) {
		if err == nil {
			return fmt.Errorf("it overwrites objects: a second Put to a key succeeded: %s", advice)
		}
		return err
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
