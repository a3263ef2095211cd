package kubeauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"pcapsule/hub"
	"pcapsule/manifest"
)

// What the API server says of a token beside whose it is.
const (
	extraCredential = "authentication.kubernetes.io/credential-id"
	extraNode       = "authentication.kubernetes.io/node-name"
	extraPod        = "authentication.kubernetes.io/pod-name"
	extraPodUID     = "authentication.kubernetes.io/pod-uid"
)

// awayError is that the API server could not be asked. It wraps the cause.
type awayError struct {
	says  string
	cause error
}

func (e *awayError) Error() string { return e.says }
func (e *awayError) Unwrap() []error {
	return []error{e.cause, unavailable("%s", e.says)}
}

var errAway = &awayError{
	"the hub cannot ask the API server who you are: try again in a moment", errors.New("it did not answer a moment ago"),
}

func isAway(err error) bool {
	var away *awayError
	return errors.As(err, &away)
}

// away makes an error of a question that got no answer.
func away(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return &awayError{
			"the hub may not ask the API server who you are: whoever installed it has to bind its service account to the ClusterRole system:auth-delegator", err,
		}
	}
	return &awayError{errAway.says, err}
}

// review asks whose a token is.
func (a *Authority) review(ctx context.Context, token string) (*holder, error) {
	var answer authenticationv1.TokenReview
	err := a.cfg.Client.Post().AbsPath("/apis/authentication.k8s.io/v1/tokenreviews").MaxRetries(1).
		Body(&authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{a.cfg.Audience}},
		}).Do(ctx).Into(&answer)
	if err != nil {
		return nil, away(err)
	}
	now := a.cfg.Now()
	c := claimsOf(token)
	switch s := &answer.Status; {
	case !s.Authenticated:
		a.cfg.Logger.Debug("token refused", "reason", s.Error)
		return nil, a.explain(c, now)
	case !slices.Contains(s.Audiences, a.cfg.Audience):
		// An API server that knows nothing of audiences says nothing of them.
		return nil, unauthenticated("the API server does not say that this token was made for %q", a.cfg.Audience)
	case s.User.Username == "":
		return nil, unauthenticated("the API server does not say whose this token is")
	}
	h := &holder{
		token: sha256.Sum256([]byte(token)), user: answer.Status.User, credential: first(answer.Status.User.Extra[extraCredential]),
		reviewed: now, expires: c.expires(), roles: map[hub.Role]verdict{},
	}
	if !h.expires.IsZero() && !now.Before(h.expires) {
		return nil, a.explain(c, now) // the API server's clock is behind ours
	}
	if h.user.Username == a.agents {
		if h.node, h.nodeless, err = a.node(ctx, h.user); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func first(v authenticationv1.ExtraValue) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

// node is the node that an agent's token is bound to. Before Kubernetes 1.30 the
// API server does not say it, but for which pod the token was made.
func (a *Authority) node(ctx context.Context, user authenticationv1.UserInfo) (node, nodeless string, err error) {
	node = first(user.Extra[extraNode])
	if node == "" {
		name, uid := first(user.Extra[extraPod]), first(user.Extra[extraPodUID])
		if name == "" || uid == "" {
			return "", "this token of the agents is bound to no pod, so it tells no node: mount it into the agent's pod as a projected volume", nil
		}
		namespace, account, _ := strings.Cut(strings.TrimPrefix(a.agents, accountPrefix), ":")
		var pod corev1.Pod
		err := a.cfg.Client.Get().AbsPath("/api/v1/namespaces/" + namespace + "/pods/" + name).MaxRetries(1).Do(ctx).Into(&pod)
		switch {
		case apierrors.IsNotFound(err) || err == nil && string(pod.UID) != uid:
			return "", fmt.Sprintf("the pod %s of this token is gone", name), nil
		case apierrors.IsForbidden(err):
			return "", "", &awayError{"the hub may not look up on which node an agent's pod is: whoever installed it has to allow its service account to get pods", err}
		case err != nil:
			return "", "", away(err)
		case pod.Spec.ServiceAccountName != account:
			return "", fmt.Sprintf("the pod %s of this token runs as another service account", name), nil
		}
		if node = pod.Spec.NodeName; node == "" {
			return "", fmt.Sprintf("the pod %s of this token is on no node yet", name), nil
		}
	}
	if err := manifest.CheckNode(node); err != nil {
		return "", fmt.Sprintf("the node of this token cannot be recorded: %v", err), nil
	}
	return node, "", nil
}

// access asks whether a user may have a role.
func (a *Authority) access(ctx context.Context, h *holder, role hub.Role) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range h.user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	var answer authorizationv1.SubjectAccessReview
	err := a.cfg.Client.Post().AbsPath("/apis/authorization.k8s.io/v1/subjectaccessreviews").MaxRetries(1).
		Body(&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: h.user.Username, UID: h.user.UID, Groups: h.user.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: a.cfg.Namespace, Verb: Verb, Group: Group, Resource: string(role),
			},
		}}).Do(ctx).Into(&answer)
	if err != nil {
		return false, away(err)
	}
	return answer.Status.Allowed && !answer.Status.Denied, nil
}

// claims is what a JWT says of itself. Nothing is let in for them: they explain
// why a token is not good, and end sooner what the API server has found good.
type claims struct {
	jwt      bool
	Expires  json.Number     `json:"exp"`
	Audience json.RawMessage `json:"aud"` // a string, or many
}

func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(b, &c) != nil {
		return claims{}
	}
	c.jwt = true
	return c
}

// expires is the end of the token, or zero.
func (c claims) expires() time.Time {
	s, err := c.Expires.Float64() // RFC 7519 allows fractions
	if err != nil || s < 1 || s > 1e11 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

func (c claims) audience() (all []string) {
	var one string
	if json.Unmarshal(c.Audience, &one) == nil {
		return []string{one}
	}
	if json.Unmarshal(c.Audience, &all) != nil {
		return nil
	}
	return all
}

// explain says why the API server does not take a token.
func (a *Authority) explain(c claims, now time.Time) error {
	aud, end := c.audience(), c.expires()
	switch {
	case !c.jwt:
		return unauthenticated("this is no token that the hub's cluster has made for %q", a.cfg.Audience)
	case !end.IsZero() && !now.Before(end):
		return unauthenticated("the token has expired, at %s: come with a new one", end.UTC().Format(time.RFC3339))
	case !slices.Contains(aud, a.cfg.Audience):
		return unauthenticated("the token is made for the audience %.100q, not for %q: make one with `kubectl create token ACCOUNT --audience %s`",
			strings.Join(aud, ", "), a.cfg.Audience, a.cfg.Audience)
	default:
		return unauthenticated("the API server does not take this token: it is of another cluster, or its service account or pod has been deleted")
	}
}
