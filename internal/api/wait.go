package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// waitFor is how long the hub may hold one request of WaitSnapshot, and so how
// often progress is seen.
const waitFor = time.Second

// WaitSnapshot waits until the snapshot with this id is made. It reports each
// state that it sees, also the last, to report (which may be nil). When the hub
// dies and another carries the session on under a new id, it follows; the
// snapshot it returns says which id it got in the end.
//
// A session that failed is an *Error, with the snapshot beside it. A hub that
// stays away for longer than the context's patience (a minute, unless
// Patiently says otherwise) is ErrUnreachable.
func (c *Client) WaitSnapshot(ctx context.Context, id string, report func(*Snapshot)) (*Snapshot, error) {
	if patience(ctx) == 0 {
		ctx = Patiently(ctx, time.Minute)
	}
	followed := false
	for {
		var s *Snapshot
		err := c.retry(ctx, func() (again bool, err error) {
			s, err = do[Snapshot](Patiently(ctx, 0), c, call{
				method:  http.MethodGet,
				path:    "/snapshots/" + url.PathEscape(id),
				query:   url.Values{"wait": {waitFor.String()}},
				timeout: waitFor + 30*time.Second,
			})
			var answer *Error
			switch {
			case err == nil:
				return false, nil
			case errors.As(err, &answer):
				// The hub names a successor just before it begins it.
				soon := followed && answer.Status == http.StatusNotFound
				return soon || answer.Status == http.StatusServiceUnavailable, err
			default:
				return errors.Is(err, ErrUnreachable), err
			}
		})
		var answer *Error
		switch {
		case errors.As(err, &answer) && answer.Code == CodeSuperseded && answer.Successor != "" && answer.Successor != id:
			id, followed = answer.Successor, true
			continue
		case err != nil:
			return nil, err
		}
		if report != nil {
			report(s)
		}
		switch s.Status {
		case Creating:
		case Failed:
			if s.Error != nil {
				return s, s.Error
			}
			return s, fmt.Errorf("snapshot %s failed: see the hub's log", s.Name)
		default:
			return s, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}
