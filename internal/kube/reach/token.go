package reach

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	tokenLife = 10 * time.Minute // the least that Kubernetes gives
	tokenRest = 2 * time.Minute  // of its life; then another is asked for
)

// Token is a source of tokens of the service account of a role, for the hub's
// audience: of the first of roles that the user may have. It keeps one until that
// nears its end: long exports outlive it, but what is asked for later needs a new
// one.
func (h *Hub) Token(audience string, roles ...string) func(context.Context) (string, error) {
	k := &keeper{hub: h, audience: audience, roles: roles}
	return k.get
}

// keeper keeps a token.
type keeper struct {
	hub      *Hub
	audience string
	roles    []string // wanted: just the one, once a token of it was got

	mu    sync.Mutex
	token string
	renew time.Time
	end   time.Time
}

func (k *keeper) get(ctx context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if now.Before(k.renew) {
		return k.token, nil
	}
	var refused error
	for _, role := range k.roles {
		fresh, life, err := k.hub.request(ctx, role, k.audience)
		switch {
		case err == nil:
			// By the length of its life: this machine's clock may be wrong.
			k.roles = []string{role}
			k.token, k.renew, k.end = fresh, now.Add(life-tokenRest), now.Add(life)
			return k.token, nil
		case apierrors.IsForbidden(err):
			refused = cmp.Or(refused, err)
		case now.Before(k.end): // it may work next time
			k.renew = now.Add(5 * time.Second)
			return k.token, nil
		default:
			return "", err
		}
	}
	return "", refused
}

// account is the service account of a role: the one with its label, or where one
// may not look for that, the one of its usual name.
func (h *Hub) account(ctx context.Context, role string) (string, error) {
	usual := strings.TrimSuffix(h.Service, "-hub") + "-" + role
	want := labelRole + "=" + role
	if instance := h.service.Labels[labelInstance]; instance != "" {
		want += "," + labelInstance + "=" + instance
	}
	var list corev1.ServiceAccountList
	err := h.client.Get().AbsPath("/api/v1/namespaces/"+h.Namespace+"/serviceaccounts").Param("labelSelector", want).Do(ctx).Into(&list)
	switch {
	case apierrors.IsForbidden(err):
		return usual, nil
	case err != nil:
		return "", h.problem("look for the service account of the role "+role, err)
	case len(list.Items) == 1:
		return list.Items[0].Name, nil
	case len(list.Items) == 0:
		return "", fmt.Errorf("no service account in namespace %s has the label %s: did the installation of the hub complete?", h.Namespace, want)
	default:
		return "", fmt.Errorf("%d service accounts in namespace %s have the label %s: there should be one", len(list.Items), h.Namespace, want)
	}
}

// request asks for a token of a role, and tells how long it lives.
func (h *Hub) request(ctx context.Context, role, audience string) (token string, life time.Duration, err error) {
	account, err := h.account(ctx, role)
	if err != nil {
		return "", 0, err
	}
	seconds := int64(tokenLife / time.Second)
	var answer authenticationv1.TokenRequest
	err = h.client.Post().AbsPath("/api/v1/namespaces/" + h.Namespace + "/serviceaccounts/" + account + "/token").
		Body(&authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}, ExpirationSeconds: &seconds},
		}).Do(ctx).Into(&answer)
	switch {
	case apierrors.IsForbidden(err):
		return "", 0, fmt.Errorf("you may not be %s of this hub: ask for a RoleBinding in namespace %s to the Role %s-access, which lets you make tokens of the service account %s (Kubernetes says: %w)",
			role, h.Namespace, account, account, err)
	case apierrors.IsNotFound(err):
		return "", 0, fmt.Errorf("there is no service account %s in namespace %s: did the installation of the hub complete?", account, h.Namespace)
	case err != nil:
		return "", 0, h.problem("get a token of "+account, err)
	}
	if s := answer.Spec.ExpirationSeconds; s != nil {
		seconds = *s
	}
	return answer.Status.Token, time.Duration(seconds) * time.Second, nil
}
