package kubeauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"pcapsule/hub"
)

const (
	// goodFor is how long the API server's good word is taken without asking
	// again, and so how long somebody who was just deprived may go on.
	goodFor = time.Minute

	// badFor is short: what is forbidden now may be allowed in a moment.
	badFor = 5 * time.Second

	// agentsFor is how long agents that are known go on when the API server
	// cannot be asked: an outage of it is when traffic is wanted most, and a
	// snapshot under way should end. What that risks is that a token that was
	// stolen from a pod that has been deleted since is good for so long for the
	// parts of its one node, if its holder also keeps the hub from the API
	// server. No token outlives its own end. People are told to wait.
	agentsFor = 10 * time.Minute

	// pause is how long the API server is left alone after it did not answer.
	pause = 2 * time.Second

	// Tokens that are remembered: a thousand nodes, and some people. What
	// somebody makes up does not push out what is good.
	maxKnown, maxBad = 8192, 2048
)

// digest is a token's SHA-256: tokens themselves are not kept.
type digest [sha256.Size]byte

// holder is whom a good token belongs to. Only roles ever changes.
type holder struct {
	token      digest
	user       authenticationv1.UserInfo
	credential string    // id of the token
	node       string    // that an agent's token is bound to
	nodeless   string    // why node is empty, of an agent
	reviewed   time.Time // when the API server said so
	expires    time.Time // the token's end; zero when that is not known

	roles map[hub.Role]verdict // Authority.mu guards it
}

// refused is why a token is not good.
type refused struct {
	why   error
	until time.Time
}

type verdict struct {
	allowed bool
	until   time.Time
}

// good tells whether the token's holder is who they were for d after the review.
func (h *holder) good(now time.Time, d time.Duration) bool {
	age := now.Sub(h.reviewed)
	return age >= 0 && age < d && (h.expires.IsZero() || now.Before(h.expires))
}

// holder is whom a token belongs to, or the error to answer.
func (a *Authority) holder(ctx context.Context, token string) (*holder, error) {
	key := digest(sha256.Sum256([]byte(token)))
	now := a.cfg.Now()
	a.mu.Lock()
	h, bad := a.known[key], a.bad[key]
	a.mu.Unlock()
	switch {
	case h != nil && h.good(now, goodFor):
		return h, nil
	case bad != nil && now.Before(bad.until):
		return nil, bad.why
	}
	fresh, err := a.ask(ctx, "token "+string(key[:]), func(ctx context.Context) (any, error) {
		h, err := a.review(ctx, token)
		a.keep(key, h, err)
		return h, err
	})
	if err == nil {
		return fresh.(*holder), nil
	}
	if isAway(err) && h != nil && h.user.Username == a.agents && h.good(now, agentsFor) {
		return h, nil
	}
	return nil, err
}

// verdict tells whether a user may have a role.
func (a *Authority) verdict(ctx context.Context, h *holder, role hub.Role) (bool, error) {
	now := a.cfg.Now()
	a.mu.Lock()
	v, ok := h.roles[role]
	a.mu.Unlock()
	if ok && now.Before(v.until) {
		return v.allowed, nil
	}
	allowed, err := a.ask(ctx, string(role)+" "+string(h.token[:]), func(ctx context.Context) (any, error) {
		return a.access(ctx, h, role)
	})
	if err != nil {
		return false, err
	}
	v = verdict{allowed: allowed.(bool), until: now.Add(badFor)}
	if v.allowed {
		v.until = now.Add(goodFor) // h itself ends before, or is asked about anew
	}
	a.mu.Lock()
	h.roles[role] = v
	a.mu.Unlock()
	return v.allowed, nil
}

// ask asks the API server. Those who want to know the same wait for one answer,
// which does not depend on who of them goes away.
func (a *Authority) ask(ctx context.Context, what string, question func(context.Context) (any, error)) (any, error) {
	if a.resting() {
		return nil, errAway
	}
	answer := a.asks.DoChan(what, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		select {
		case a.free <- struct{}{}:
			defer func() { <-a.free }()
		case <-ctx.Done():
			return nil, errAway
		}
		v, err := question(ctx)
		a.heard(err)
		return v, err
	})
	select {
	case r := <-answer:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askTime bounds a question, waiting for its turn included: less than agents and
// commands wait for the hub.
const askTime = 5 * time.Second

// resting tells whether to leave the API server alone: for a moment after it did
// not answer, and then while somebody tries whether it does again.
func (a *Authority) resting() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	switch {
	case !a.away:
		return false
	case now.Before(a.retry):
		return true
	default:
		a.retry = now.Add(askTime)
		return false
	}
}

// heard notes whether the API server answers.
func (a *Authority) heard(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.away
	var why *awayError
	if a.away = errors.As(err, &why); a.away {
		a.retry = a.cfg.Now().Add(pause)
	}
	switch {
	case a.away && !was:
		a.cfg.Logger.Warn("the API server cannot be asked who sends requests; agents that are known go on for a while", "for", agentsFor, "error", why.cause)
	case was && !a.away:
		a.cfg.Logger.Warn("the API server answers again")
	}
}

// keep remembers what a review said.
func (a *Authority) keep(key digest, h *holder, err error) {
	if isAway(err) {
		return
	}
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		delete(a.known, key)
		makeRoom(a.bad, maxBad, func(r *refused) bool { return !now.Before(r.until) })
		a.bad[key] = &refused{err, now.Add(badFor)}
		return
	}
	delete(a.bad, key)
	makeRoom(a.known, maxKnown, func(h *holder) bool { return !h.good(now, agentsFor) })
	a.known[key] = h
}

// makeRoom makes room in a full map for one more: it drops what is over, or if
// nothing is, any.
func makeRoom[T any](m map[digest]*T, most int, over func(*T) bool) {
	if len(m) < most {
		return
	}
	for k, v := range m {
		if over(v) {
			delete(m, k)
		}
	}
	for k := range m {
		if len(m) < most {
			return
		}
		delete(m, k)
	}
}
