package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// The load on the API server. The agent that records renews the Lease ten times a
// minute. All others together read it about once a second, however many they
// are: each of n waits n seconds from one look to the next, 10 at least and 300
// at most, give or take a half. The number of nodes stands in the Lease. So 3
// nodes make 18 reads a minute and 1,000 make 200, three a second, where their
// kubelets write a hundred Leases a second.
//
// A recorder that dies is followed after leaseTime, the time until one of the
// others looks, and in large clusters leaseTime once more: who has not looked
// for long has to see that the Lease does not change, as clocks may differ.
const (
	leaseTime   = 20 * time.Second // after which a Lease that is not renewed is free
	renewEvery  = 6 * time.Second
	giveUpAfter = 14 * time.Second // without a renewal the recorder stops, well before leaseTime

	lookPerNode = time.Second
	minLook     = 10 * time.Second
	maxLook     = 5 * time.Minute

	requestTime = 5 * time.Second // of one request of the Lease
)

// nodesAnnotation on the Lease tells how many nodes the cluster has.
const nodesAnnotation = "pcapsule/nodes"

// An elector takes part in the election by a Lease. Two who hold it at once, for
// a moment, do no harm: readers of the stream can cope. So it needs no more than
// that the Lease changes hands by comparing versions.
type elector struct {
	client rest.Interface
	log    *slog.Logger
	now    func() time.Time // monotonic
	name   leaseName
	node   string       // who this is
	nodes  func() int64 // in the cluster, as known while recording

	lease   *coordinationv1.Lease // as last seen; nil when it was not, or was not there
	changed time.Time             // when that was seen to differ from before
}

type leaseName struct{ namespace, name string }

func (n leaseName) String() string { return n.namespace + "/" + n.name }

// run stands by, and calls lead whenever this agent is elected, until the context
// ends. The context of lead ends when the Lease is lost; kept tells lead that no
// one else has had it since lead last returned.
func (e *elector) run(ctx context.Context, lead func(ctx context.Context, kept bool)) {
	for ctx.Err() == nil {
		kept, pause, err := e.try(ctx)
		if err == nil && pause == 0 {
			e.hold(ctx, func(ctx context.Context) { lead(ctx, kept) })
			continue
		}
		if err != nil && ctx.Err() == nil {
			e.trouble(err)
		}
		wait(ctx, pause)
	}
}

// trouble logs an error, loudly when somebody has to do something about it.
func (e *elector) trouble(err error) {
	if apierrors.IsForbidden(err) {
		e.log.Warn("this agent may not take part in recording the stream kubernetes (check the agent's Role)", "lease", e.name, "err", err)
		return
	}
	e.log.Debug("cannot ask for the lease of the stream kubernetes", "lease", e.name, "err", err)
}

// try looks at the Lease and takes it when it is free. When it did not, pause is
// how long to wait until the next look. kept tells that this agent held it last.
func (e *elector) try(ctx context.Context) (kept bool, pause time.Duration, err error) {
	lease, err := e.get(ctx)
	switch {
	case apierrors.IsNotFound(err):
		e.lease = nil
	case err != nil:
		if e.lease != nil && holderOf(e.lease) == e.node { // nobody else could take it, either
			return false, time.Second + rand.N(2*time.Second), err
		}
		return false, e.look(), err
	default:
		if e.lease == nil || e.lease.ResourceVersion != lease.ResourceVersion {
			e.changed = e.now()
		}
		e.lease = lease
		holder := holderOf(lease)
		unchanged := e.now().Sub(e.changed)
		switch {
		case holder == "":
		case holder == e.node:
			kept = true
		case unchanged >= leaseTime:
		case unchanged > 2*renewEvery, overdue(lease, e.now()): // be sure, and do not look again at once with all others
			return false, leaseTime - unchanged + rand.N(2*time.Second), nil
		default:
			return false, e.look(), nil
		}
	}
	err = e.put(ctx, e.node)
	switch {
	case err == nil:
		return kept, 0, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // another was faster
		return false, e.look(), nil
	}
	return false, e.look(), err
}

// look is how long to wait until the next look at a Lease that another holds.
func (e *elector) look() time.Duration {
	d := minLook
	if e.lease != nil {
		if n, err := strconv.ParseUint(e.lease.Annotations[nodesAnnotation], 10, 20); err == nil {
			d = min(max(time.Duration(n)*lookPerNode, minLook), maxLook)
		}
	}
	return d/2 + rand.N(d)
}

// overdue tells whether a Lease should have been renewed, if clocks agree.
func overdue(l *coordinationv1.Lease, now time.Time) bool {
	return l.Spec.RenewTime == nil || now.Sub(l.Spec.RenewTime.Time) > leaseTime
}

func holderOf(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// hold renews the Lease while lead runs, and ends lead's context when it is lost,
// with the cause. It gives the Lease back when its own context ends.
func (e *elector) hold(ctx context.Context, lead func(context.Context)) {
	leading, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		lead(leading)
	}()
	stop(e.renew(ctx))
	<-ended
	if ctx.Err() == nil {
		return
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
	defer cancel()
	if err := e.put(last, ""); err != nil && !apierrors.IsConflict(err) {
		e.trouble(err)
	}
}

// errUnanswered ends a term in which the API server has not answered for so long.
// Watches notice that later than the elector: what they heard of is from before.
type errUnanswered struct{ silence time.Duration }

func (e errUnanswered) Error() string {
	return fmt.Sprintf("the API server has not answered for %v", e.silence)
}

// renew returns when the Lease is lost, with the reason, or the context has ended.
func (e *elector) renew(ctx context.Context) error {
	renewed := e.now()
	pause := renewEvery
	for {
		wait(ctx, pause)
		if ctx.Err() != nil {
			return nil
		}
		asked := e.now()
		left := giveUpAfter - asked.Sub(renewed)
		if left <= 0 {
			e.log.Warn("the API server does not answer: the stream kubernetes is not recorded until it does")
			return errUnanswered{asked.Sub(renewed)}
		}
		limited, cancel := context.WithTimeout(ctx, min(left, requestTime))
		err := e.put(limited, e.node)
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			if err = e.again(limited); errors.Is(err, errTaken) {
				cancel()
				e.log.Info("another agent records the stream kubernetes now", "node", holderOf(e.lease))
				return err
			}
		}
		cancel()
		pause = renewEvery
		if err == nil {
			renewed = asked
		} else {
			e.trouble(err)
			pause = time.Second
		}
	}
}

var errTaken = errors.New("another agent has the lease")

// again renews a Lease that has changed, or gone, since it was last seen.
func (e *elector) again(ctx context.Context) error {
	lease, err := e.get(ctx)
	switch {
	case apierrors.IsNotFound(err):
		e.lease = nil
	case err != nil:
		return err
	default:
		e.lease = lease
		if holderOf(lease) != e.node {
			e.changed = e.now()
			return errTaken
		}
	}
	return e.put(ctx, e.node)
}

func (e *elector) path() string {
	return "/apis/coordination.k8s.io/v1/namespaces/" + e.name.namespace + "/leases"
}

func (e *elector) get(ctx context.Context) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	lease := new(coordinationv1.Lease)
	err := e.client.Get().AbsPath(e.path(), e.name.name).Do(ctx).Into(lease)
	return lease, err
}

// put makes holder the one who holds the Lease, unless it has changed since it
// was last seen. It makes the Lease when that was not there.
func (e *elector) put(ctx context.Context, holder string) error {
	now := metav1.NewMicroTime(e.now())
	var next *coordinationv1.Lease
	if e.lease != nil {
		next = e.lease.DeepCopy()
	} else {
		next = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.name.namespace, Name: e.name.name}}
	}
	s := &next.Spec
	if holderOf(next) != holder && holder != "" {
		s.AcquireTime = &now
		if e.lease != nil {
			s.LeaseTransitions = new(transitions(s) + 1)
		}
	}
	s.HolderIdentity, s.RenewTime, s.LeaseDurationSeconds = &holder, &now, new(int32(leaseTime/time.Second))
	if n := e.nodes(); n > 0 {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, nodesAnnotation, strconv.FormatInt(n, 10))
	}
	req := e.client.Post().AbsPath(e.path())
	if e.lease != nil {
		req = e.client.Put().AbsPath(e.path(), e.name.name)
	}
	out := new(coordinationv1.Lease)
	if err := req.Body(next).Do(ctx).Into(out); err != nil {
		return err
	}
	e.lease, e.changed = out, e.now()
	return nil
}

func transitions(s *coordinationv1.LeaseSpec) int32 {
	if s.LeaseTransitions == nil {
		return 0
	}
	return *s.LeaseTransitions
}
