package hub

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// A Role is what a request needs its sender to be.
type Role string

// Roles, each for some of the routes.
const (
	Anyone   Role = ""         // health, metrics, the API's document
	Viewer   Role = "viewer"   // sees what there is
	Exporter Role = "exporter" // reads packets
	Operator Role = "operator" // makes and deletes snapshots
	Agent    Role = "agent"    // speaks for one node
	Owner    Role = "owner"    // may do everything, as any node: of a hub on one machine

	// Part is for routes of parts of sessions: an Agent hands in its node's,
	// an Operator those of an import.
	Part Role = "part"

	// Object is for what snapshots consist of: a Viewer may see how they are
	// made up, and an Exporter what was recorded. Authorise is asked for either.
	Object Role = "object"
)

// An Identity is who sends a request, as far as Config.Authorise found out.
type Identity struct {
	User       string
	Role       Role   // as which the request is let in; neither Part nor Object
	Node       string // of an Agent: the only one that it speaks for
	Credential string // id of the token, as the audit log of its issuer has it; "" when there is none
}

type identityKey struct{}

// identity is who sends a request, or nil where nobody is asked.
func identity(r *http.Request) *Identity {
	id, _ := r.Context().Value(identityKey{}).(*Identity)
	return id
}

// authorise lets a request in, with its sender's identity in its context, or
// returns the error to answer.
func (h *Hub) authorise(r *http.Request, role Role) (*http.Request, error) {
	if h.cfg.Authorise == nil {
		return r, nil
	}
	if role == Object {
		switch r.PathValue("kind") + "/" {
		case manifest.SnapshotsDir, manifest.KindInventory + "/":
			role = Viewer
		default:
			role = Exporter
		}
	}
	id, err := h.cfg.Authorise(r, role)
	if id != nil {
		r = r.WithContext(context.WithValue(r.Context(), identityKey{}, id))
	}
	if node := r.PathValue("node"); err == nil && id != nil && id.Role == Agent && node != id.Node {
		err = refuse(http.StatusForbidden, api.CodeForbidden,
			"this token is of the agent on node %s, which cannot speak for node %.253q: start the agent with --node %s", id.Node, node, id.Node)
	}
	return r, err
}

// checkHand tells whether the sender may hand in parts of a session: agents
// those of their recordings, and operators those of what they import.
func checkHand(r *http.Request, s *session) error {
	id := identity(r)
	switch {
	case id == nil, id.Role == Owner:
		return nil
	case s.req.Import && id.Role == Agent:
		return refuse(http.StatusForbidden, api.CodeForbidden, "session %s is an import: no agent has a part in it", s.id)
	case !s.req.Import && id.Role != Agent:
		return refuse(http.StatusForbidden, api.CodeForbidden, "session %s is of what agents recorded: only they hand in parts of it", s.id)
	}
	return nil
}

// sender says for people who sends a request.
func sender(r *http.Request) string {
	if id := identity(r); id != nil {
		return manifest.Clean(fmt.Sprintf("%s by the hub, from %s", id.User, r.RemoteAddr))
	}
	return "a client of the hub at " + r.RemoteAddr
}

// maxClaimed bounds a claimed name.
const maxClaimed = 256

// audit logs who did what.
func (h *Hub) audit(r *http.Request, action string, err error, args ...any) {
	who := []any{"action", action, "remote", r.RemoteAddr}
	if id := identity(r); id != nil {
		who = append(who, "user", id.User)
		if id.Role != "" {
			who = append(who, "role", string(id.Role))
		}
		if id.Node != "" {
			who = append(who, "node", id.Node)
		}
		if id.Credential != "" {
			who = append(who, "credential", id.Credential)
		}
	}
	// Whoever holds a role's token says here who asked for it. That is not
	// proved: the proof is in the API server's audit log, by the credential.
	if claimed := r.Header.Get(api.HeaderClaimedUser); claimed != "" {
		if len(claimed) > maxClaimed {
			claimed = claimed[:maxClaimed]
		}
		who = append(who, "claimed", manifest.Clean(claimed))
	}
	args = append(who, args...)
	if err != nil {
		args = append(args, "error", err)
	}
	h.cfg.Audit.InfoContext(r.Context(), "audit", args...)
}

// refused logs a request that was not let in. Somebody who tries tokens must
// not fill the disk with that: past maxRefusals a minute they are counted only.
func (h *Hub) refused(r *http.Request, e *api.Error) {
	more, ok := h.refusals.take(h.now())
	if !ok {
		return
	}
	args := []any{"method", r.Method, "path", manifest.Clean(r.URL.Path), "status", e.Status}
	if more > 0 {
		args = append(args, "more_before", more)
	}
	h.audit(r, "refused", e, args...)
}

// maxRefusals is how many refusals a minute are logged.
const maxRefusals = 60

// refusals bounds how many are logged.
type refusals struct {
	mu     sync.Mutex
	since  time.Time // of the minute
	logged int
	more   int // were not logged
}

// take tells whether to log another at now, and how many before it were not.
func (l *refusals) take(now time.Time) (more int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := now.Sub(l.since); d < 0 || d >= time.Minute {
		l.since, l.logged = now, 0
	}
	if l.logged >= maxRefusals {
		l.more++
		return 0, false
	}
	l.logged++
	more, l.more = l.more, 0
	return more, true
}
