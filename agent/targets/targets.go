// Package targets follows which pods run on a node of a Kubernetes cluster, and
// says whose packets are recorded there.
//
// What always holds: a pod that a Selection does not match, or excludes, is never
// made a target, and an address means nothing any more as soon as its pod has
// ended. Until it is known which pods run, a selection records nothing, and
// Config.OnBlind is told. An API server that is away changes nothing: what was
// known holds, also after a restart of the agent (see memory).
//
// The load on the API server is one watch a node, of that node's pods, which the
// server finds by an index in its cache, as it does for each kubelet: a thousand
// nodes cost a thousand idle connections, and each change of a pod is sent once.
// Where the hub is a Service, a second watch follows its endpoints.
//
// It knows nothing of interfaces and packets: agent/packets does.
package targets

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
	"pcapsule/internal/kube"
)

// Config of a Watcher.
type Config struct {
	API       *rest.Config
	Node      string // its name in the cluster
	Namespace string // of the agents, where pods labelled as pcapsule's are ours
	Selection Selection
	File      string  // remembers what was known; none when empty
	Hub       Service // whose endpoints' traffic is left out, when Own is set

	// Apply is told whose packets are recorded from now on. An error is logged.
	Apply func(packets.Targets) error
	// Own, when set, leaves out what has the hub's addresses.
	Own *packets.Own
	// OnBlind is told that nothing was recorded from one time to another
	// (nanoseconds since the Unix epoch), as it was not known which pods are
	// targets. It may be told of a longer time in pieces.
	OnBlind func(from, to int64)

	Now    func() time.Time
	Logger *slog.Logger
}

// A Service of the cluster; none without a name.
type Service struct{ Namespace, Name string }

// ServiceOf finds the service in the URL of a hub: there is one in that of
// https://hub.namespace.svc:8898, and none in others.
func ServiceOf(hub string) Service {
	u, err := url.Parse(hub)
	if err != nil {
		return Service{}
	}
	parts := strings.Split(u.Hostname(), ".")
	if len(parts) < 3 || parts[2] != "svc" {
		return Service{}
	}
	return Service{Namespace: parts[1], Name: parts[0]}
}

// A Watcher follows the pods of a node.
type Watcher struct {
	cfg  Config
	pods source
	hub  source

	mu    sync.Mutex
	known bool           // which pods run
	all   map[string]pod // by UID
	last  packets.Targets

	slices map[string][]netip.AddrPort // of the hub's endpoints, by UID
	peers  map[netip.AddrPort]func()   // that are left out, and how to end that
}

// New makes a watcher, which knows what was known to the last one on this node.
func New(cfg Config) (*Watcher, error) {
	if cfg.Node == "" || cfg.API == nil || cfg.Apply == nil {
		return nil, errors.New("targets: want the API server, a node and what to tell")
	}
	client, err := kube.NewClient(cfg.API, 5, corev1.AddToScheme, discoveryv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	w := &Watcher{cfg: cfg, all: map[string]pod{}, slices: map[string][]netip.AddrPort{}, peers: map[netip.AddrPort]func(){}}
	w.pods = source{
		client: client, path: "/api/v1/pods", params: map[string]string{"fieldSelector": "spec.nodeName=" + cfg.Node},
		list: func() runtime.Object { return new(corev1.PodList) }, log: cfg.Logger, changed: w.podsChanged,
	}
	w.hub = source{
		client: client, path: "/apis/discovery.k8s.io/v1/namespaces/" + cfg.Hub.Namespace + "/endpointslices",
		params: map[string]string{"labelSelector": discoveryv1.LabelServiceName + "=" + cfg.Hub.Name},
		list:   func() runtime.Object { return new(discoveryv1.EndpointSliceList) }, log: cfg.Logger, changed: w.hubChanged,
	}
	if cfg.File != "" {
		switch pods, err := recall(cfg.File, cfg.Node); {
		case err != nil:
			cfg.Logger.Warn("which pods ran on this node is not remembered", "error", err)
		case pods != nil:
			w.all, w.known = pods, true
		}
	}
	w.last = w.cfg.Selection.targets(w.all, w.known)
	return w, nil
}

// Targets are those known now.
func (w *Watcher) Targets() packets.Targets {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Blind tells whether some pods are to be recorded, and none is since it is not
// known which run.
func (w *Watcher) Blind() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cfg.Selection.Selective() && !w.known
}

// blindEvery is in which pieces blind times are told, so that a snapshot that is
// made meanwhile knows of them.
const blindEvery = 250 * time.Millisecond

// Run follows the pods until the context ends.
func (w *Watcher) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if w.cfg.Hub.Name != "" && w.cfg.Own != nil {
		wg.Go(func() { w.hub.run(ctx) })
	}
	wg.Go(func() { w.watchBlind(ctx) })
	w.pods.run(ctx)
}

// watchBlind tells of the time until it is known which pods run.
func (w *Watcher) watchBlind(ctx context.Context) {
	if !w.cfg.Selection.Selective() || w.cfg.OnBlind == nil {
		return
	}
	from := w.cfg.Now().UnixNano()
	t := time.NewTicker(blindEvery)
	defer t.Stop()
	for said := false; ; {
		w.mu.Lock()
		known := w.known
		w.mu.Unlock()
		if now := w.cfg.Now().UnixNano(); now > from && (!known || said) {
			w.cfg.OnBlind(from, now)
			from, said = now, true
		}
		if known {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// podsChanged hears of pods as they are now: of all there are, when whole.
func (w *Watcher) podsChanged(whole bool, came, gone []runtime.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if whole {
		clear(w.all)
	}
	for _, o := range gone {
		if p, ok := o.(*corev1.Pod); ok {
			delete(w.all, string(p.UID))
		}
	}
	for _, o := range came {
		p, ok := o.(*corev1.Pod)
		switch {
		case !ok:
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
			delete(w.all, string(p.UID))
		default:
			w.all[string(p.UID)] = podOf(p, w.cfg.Namespace)
		}
	}
	first := !w.known
	w.known = w.known || whole
	next := w.cfg.Selection.targets(w.all, w.known)
	if !first && same(next, w.last) {
		return
	}
	if err := w.cfg.Apply(next); err != nil {
		w.cfg.Logger.Error("cannot change whose packets are recorded", "error", err)
	}
	w.last = next
	if w.cfg.File != "" && w.known {
		if err := remember(w.cfg.File, w.cfg.Node, w.all); err != nil {
			w.cfg.Logger.Warn("cannot remember which pods run on this node", "error", err)
		}
	}
}

func same(a, b packets.Targets) bool {
	return a.Selective == b.Selective && a.Node == b.Node && maps.Equal(a.Pods, b.Pods) && slices.Equal(a.NodeAddresses, b.NodeAddresses)
}

// hubChanged hears of the hub's endpoints. A connection with the hub may get
// another local end on its way (masquerading), and is told by the other.
func (w *Watcher) hubChanged(whole bool, came, gone []runtime.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if whole {
		clear(w.slices)
	}
	for _, o := range gone {
		if e, ok := o.(*discoveryv1.EndpointSlice); ok {
			delete(w.slices, string(e.UID))
		}
	}
	for _, o := range came {
		if e, ok := o.(*discoveryv1.EndpointSlice); ok {
			w.slices[string(e.UID)] = endpoints(e)
		}
	}
	want := map[netip.AddrPort]bool{}
	for _, list := range w.slices {
		for _, a := range list {
			want[a] = true
			if w.peers[a] == nil {
				w.peers[a] = w.cfg.Own.LeaveOut(packets.TCP, a)
			}
		}
	}
	for a, again := range w.peers {
		if !want[a] {
			again()
			delete(w.peers, a)
		}
	}
}

// endpoints are the TCP addresses of a slice.
func endpoints(s *discoveryv1.EndpointSlice) (out []netip.AddrPort) {
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				continue // a name
			}
			for _, p := range s.Ports {
				if p.Port != nil && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) && *p.Port > 0 && *p.Port < 1<<16 {
					out = append(out, netip.AddrPortFrom(addr, uint16(*p.Port)))
				}
			}
		}
	}
	return out
}

// A pod is what matters of one here.
type pod struct {
	Namespace   string       `json:"namespace"`
	Name        string       `json:"name"`
	Addresses   []netip.Addr `json:"addresses,omitempty"`    // none yet, when it is new
	HostNetwork bool         `json:"host_network,omitempty"` // Addresses are the node's
	Own         bool         `json:"own,omitempty"`          // one of pcapsule's
	Host        []netip.Addr `json:"host,omitempty"`         // addresses of its node
}

// podOf reads what the API server says of a pod.
func podOf(p *corev1.Pod, ownNamespace string) pod {
	out := pod{
		Namespace: p.Namespace, Name: p.Name, HostNetwork: p.Spec.HostNetwork,
		Own: ownNamespace != "" && p.Namespace == ownNamespace && p.Labels["app.kubernetes.io/name"] == "pcapsule",
	}
	add := func(to *[]netip.Addr, s string) {
		if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(*to, a.Unmap()) {
			*to = append(*to, a.Unmap())
		}
	}
	add(&out.Addresses, p.Status.PodIP)
	for _, ip := range p.Status.PodIPs {
		add(&out.Addresses, ip.IP)
	}
	add(&out.Host, p.Status.HostIP)
	for _, ip := range p.Status.HostIPs {
		add(&out.Host, ip.IP)
	}
	return out
}

// sortedAddrs orders addresses.
func sortedAddrs(set map[netip.Addr]bool) []netip.Addr {
	return slices.SortedFunc(maps.Keys(set), func(a, b netip.Addr) int { return cmp.Compare(a.String(), b.String()) })
}
