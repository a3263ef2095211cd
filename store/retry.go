package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// A retryPolicy says how often to try, and how long to wait before the second
// attempt. The wait doubles from attempt to attempt, up to maxBackoff.
type retryPolicy struct {
	attempts int
	backoff  time.Duration
	limit    time.Duration // from the first attempt on, after which there is no other; none when 0
}

const maxBackoff = 5 * time.Second

// do calls f until it succeeds or says that trying again is of no use. The error
// is that of the last call, or that of ctx with it.
func (p retryPolicy) do(ctx context.Context, f func(attempt int) (again bool, err error)) error {
	wait, began := p.backoff, time.Now()
	for attempt := 1; ; attempt++ {
		again, err := f(attempt)
		if err == nil || !again {
			return err
		}
		if ctx.Err() != nil {
			return joinCause(ctx, err)
		}
		if attempt >= p.attempts || p.limit > 0 && time.Since(began) >= p.limit {
			if attempt > 1 {
				err = fmt.Errorf("tried %d times: %w", attempt, err)
			}
			return err
		}
		// Half of it is random, so that many clients do not come back at once.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return joinCause(ctx, err)
		}
		wait = min(2*wait, maxBackoff)
	}
}

// joinCause is the error of an operation that ctx ended while err stood.
func joinCause(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
}

// retryStatus tells whether a request with this answer may succeed later.
func retryStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
