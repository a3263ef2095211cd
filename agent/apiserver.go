package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
	"pcapsule/internal/kube"
)

// apiDialer connects to the API server, past the address of its Service.
//
// In many clusters, what a node sends to a Service's address leaves it with
// another source (masquerading), so that our own traffic could not be told from
// that of others on the node. Where a Service leads to can be asked for, and
// reached without that. TLS is none the wiser: it asks for the Service's name.
type apiDialer struct {
	own     *packets.Own
	log     *slog.Logger
	service string // host:port
	find    func(context.Context) ([]string, error)

	mu   sync.Mutex
	ends []string // where the service leads to; nil when that is not known
}

const (
	findTimeout   = 5 * time.Second
	directTimeout = 3 * time.Second
)

// ownConnections makes connections by cfg those of own.
func ownConnections(cfg *rest.Config, own *packets.Own, log *slog.Logger) *rest.Config {
	if cfg == nil || cfg.Dial != nil {
		return cfg
	}
	cfg = rest.CopyConfig(cfg)
	cfg.Dial = own.DialContext
	u, err := url.Parse(cfg.Host)
	if err != nil || u.Hostname() == "" || u.Hostname() != os.Getenv("KUBERNETES_SERVICE_HOST") {
		return cfg // no service
	}
	asking := rest.CopyConfig(cfg)
	d := &apiDialer{
		own: own, log: log, service: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")),
		find: func(ctx context.Context) ([]string, error) { return apiServers(ctx, asking) },
	}
	cfg.Dial = d.DialContext
	return cfg
}

func (d *apiDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if address != d.service {
		return d.own.DialContext(ctx, network, address)
	}
	for _, end := range d.servers(ctx) {
		direct, cancel := context.WithTimeout(ctx, directTimeout)
		conn, err := d.own.DialContext(direct, network, end)
		cancel()
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		d.log.Debug("an API server is not reached directly", "address", end, "error", err)
	}
	// Which they are may have changed.
	d.mu.Lock()
	d.ends = nil
	d.mu.Unlock()
	return d.own.DialContext(ctx, network, address)
}

// servers are those that the service leads to, in a random order; none when that
// cannot be found out.
func (d *apiDialer) servers(ctx context.Context) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		ctx, cancel := context.WithTimeout(ctx, findTimeout)
		defer cancel()
		var err error
		if d.ends, err = d.find(ctx); err != nil {
			d.log.Debug("where the API server's service leads is not known", "error", err)
			return nil
		}
	}
	out := make([]string, len(d.ends))
	for to, from := range rand.Perm(len(d.ends)) {
		out[to] = d.ends[from]
	}
	return out
}

// apiServers asks for the endpoints of the service that every cluster has.
func apiServers(ctx context.Context, cfg *rest.Config) ([]string, error) {
	client, err := kube.NewClient(cfg, 5, discoveryv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	if c, ok := client.(*rest.RESTClient); ok {
		defer utilnet.CloseIdleConnectionsFor(c.Client.Transport)
	}
	var list discoveryv1.EndpointSliceList
	err = client.Get().AbsPath("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices").
		Param("labelSelector", discoveryv1.LabelServiceName+"=kubernetes").Do(ctx).Into(&list)
	if err != nil {
		return nil, fmt.Errorf("ask for the API server's endpoints: %w", err)
	}
	out := []string{}
	for _, s := range list.Items {
		for _, p := range s.Ports {
			if p.Port == nil || *p.Port <= 0 || *p.Port >= 1<<16 || len(s.Ports) > 1 && (p.Name == nil || *p.Name != "https") {
				continue
			}
			for _, e := range s.Endpoints {
				for _, a := range e.Addresses {
					if _, err := netip.ParseAddr(a); err == nil {
						out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	return out, nil
}
