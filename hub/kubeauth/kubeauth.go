// Package kubeauth tells by a Kubernetes token who sends a request to a hub, and
// whether they may.
//
// The API server decides both: TokenReview says whose a token is, and that it
// was made for this hub (its audience); SubjectAccessReview says whether that
// user may be viewer, exporter or operator here. Agents are one service account,
// and the node that such a token is bound to is in it.
//
// Answers are kept for a moment (cache.go says how long, and why that is safe).
// Nothing is ever let in because a question was not answered.
package kubeauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/singleflight"

	"pcapsule/hub"
	"pcapsule/internal/api"
	"pcapsule/internal/kube"
)

// Group is the API group of the roles. No API server serves it: it is for RBAC
// rules, with the verb Verb and a role as the resource.
const (
	Group = "hub.pcapsule"
	Verb  = "use"
)

// Config of an Authority. All but Logger and Now have to be set.
type Config struct {
	Client       rest.Interface // of NewClient
	Audience     string         // that tokens have to be made for
	AgentAccount string         // NAMESPACE/NAME of the agents' service account
	Namespace    string         // in which RBAC says who may be what
	Logger       *slog.Logger
	Now          func() time.Time
}

// An Authority answers for a hub; Authorise is its Config.Authorise.
type Authority struct {
	cfg    Config
	agents string // the agents' user name
	asks   singleflight.Group
	free   chan struct{} // a place for each question that may be under way

	mu    sync.Mutex
	known map[digest]*holder  // whose tokens were good
	bad   map[digest]*refused // tokens that were not
	away  bool                // the API server did not answer when last asked
	retry time.Time           // until then it is not asked again, if away
}

// maxAsks is how many questions to the API server may be under way.
const maxAsks = 32

// NewClient is a client of the API server that asks what an Authority asks.
func NewClient(cfg *rest.Config) (rest.Interface, error) {
	return kube.NewClient(cfg, 200, authenticationv1.AddToScheme, authorizationv1.AddToScheme, corev1.AddToScheme)
}

// New makes an Authority. It asks nothing yet.
func New(cfg Config) (*Authority, error) {
	namespace, name, ok := strings.Cut(cfg.AgentAccount, "/")
	switch {
	case cfg.Client == nil:
		return nil, errors.New("no client of the API server")
	case !ok || namespace == "" || name == "" || strings.Contains(name, "/"):
		return nil, fmt.Errorf("%q is no service account of agents: want NAMESPACE/NAME", cfg.AgentAccount)
	case cfg.Audience == "":
		return nil, errors.New("no audience that tokens have to be made for")
	case cfg.Namespace == "":
		return nil, errors.New("no namespace in which RBAC says who may be what")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authority{
		cfg:    cfg,
		agents: accountPrefix + namespace + ":" + name,
		free:   make(chan struct{}, maxAsks),
		known:  map[digest]*holder{},
		bad:    map[digest]*refused{},
	}, nil
}

// Of user names of service accounts.
const accountPrefix = "system:serviceaccount:"

// maxToken bounds a token. Those of service accounts have about 1 kB.
const maxToken = 16 << 10

// Authorise tells who sends a request, and returns an error unless they may do
// what needs a role. A nil identity without an error is anyone's.
func (a *Authority) Authorise(r *http.Request, role hub.Role) (*hub.Identity, error) {
	if role == hub.Anyone {
		return nil, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	switch {
	case !strings.EqualFold(scheme, "Bearer") || token == "":
		return nil, unauthenticated("this hub wants to know who asks: come with a token of its cluster for the audience %q (commands fetch one by themselves when --hub is not given; agents have --hub-token-file)", a.cfg.Audience)
	case len(token) > maxToken:
		return nil, unauthenticated("the token has %d bytes, which no token has", len(token))
	}
	h, err := a.holder(r.Context(), token)
	if err != nil {
		return nil, err
	}
	id := &hub.Identity{User: h.user.Username, Credential: h.credential}
	if h.user.Username == a.agents && (role == hub.Agent || role == hub.Part) {
		if h.node == "" {
			return id, forbidden("%s", h.nodeless)
		}
		id.Role, id.Node = hub.Agent, h.node
		return id, nil
	}
	switch role {
	case hub.Agent:
		return id, forbidden("this token is of %s, and agents are %s: use a token of that service account (--hub-token-file)", h.user.Username, a.agents)
	case hub.Part:
		role = hub.Operator
	}
	if err := a.may(r.Context(), h, role); err != nil {
		return id, err
	}
	id.Role = role
	return id, nil
}

// may tells whether a user may have a role: nil, or why not.
func (a *Authority) may(ctx context.Context, h *holder, role hub.Role) error {
	allowed, err := a.verdict(ctx, h, role)
	if err == nil && !allowed {
		return forbidden("%s may not %s %s.%s in namespace %s, which this needs: use a token of the service account of that role, or have it allowed by RBAC",
			h.user.Username, Verb, role, Group, a.cfg.Namespace)
	}
	return err
}

func unauthenticated(format string, args ...any) error {
	return &api.Error{Status: http.StatusUnauthorized, Code: api.CodeUnauthenticated, Message: fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) error {
	return &api.Error{Status: http.StatusForbidden, Code: api.CodeForbidden, Message: fmt.Sprintf(format, args...)}
}

func unavailable(format string, args ...any) error {
	return &api.Error{Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}
