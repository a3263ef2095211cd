package hub

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"pcapsule/internal/api"
	"pcapsule/store"
)

// metrics is what the hub counts.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	sessions *prometheus.CounterVec
	uploaded prometheus.Counter
	streamed *prometheus.CounterVec
	placed   *prometheus.CounterVec
}

func newMetrics(h *Hub) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pcapsule_hub_request_duration_seconds",
			Help:    "How long requests took, from their header to the end of the answer. Polls wait on purpose.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"method", "path", "status"}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pcapsule_hub_sessions_total",
			Help: "Sessions that have ended, by how: completed, partial, failed, superseded.",
		}, []string{"status"}),
		uploaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pcapsule_hub_uploaded_bytes_total",
			Help: "Bytes of uploads that went through this hub: those to a folder store.",
		}),
		streamed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pcapsule_hub_streamed_bytes_total",
			Help: "Bytes of packets sent to clients, by form: pcap, archive, object.",
		}, []string{"form"}),
		placed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pcapsule_hub_chunk_bytes_total",
			Help: "Bytes of chunks that sessions wanted in the store, by whether they were there or had to be sent.",
		}, []string{"stored"}),
	}
	m.registry.MustRegister(m.requests, m.sessions, m.uploaded, m.streamed, m.placed, nodeCollector{h},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// nodeCollector shows the nodes as they are when somebody looks.
type nodeCollector struct{ h *Hub }

var (
	descNodes  = prometheus.NewDesc("pcapsule_hub_nodes", "Nodes whose agents have reported, by whether they still do.", []string{"live"}, nil)
	descOpen   = prometheus.NewDesc("pcapsule_hub_sessions", "Sessions under way.", nil, nil)
	descLimit  = prometheus.NewDesc("pcapsule_node_ring_limit_bytes", "What a node's ring may hold.", []string{"node"}, nil)
	descUsed   = prometheus.NewDesc("pcapsule_node_ring_used_bytes", "What a node's ring holds.", []string{"node"}, nil)
	descPinned = prometheus.NewDesc("pcapsule_node_ring_pinned_bytes", "What of a node's ring is pinned for sessions.", []string{"node"}, nil)
	descOldest = prometheus.NewDesc("pcapsule_node_ring_oldest_timestamp_seconds", "From when on a node's ring holds everything.", []string{"node"}, nil)
	descDrops  = prometheus.NewDesc("pcapsule_node_dropped_packets_total", "Packets a node's kernel dropped since its agent started.", []string{"node"}, nil)
	descWarns  = prometheus.NewDesc("pcapsule_node_warnings", "What a node warns of now: see `pcapsule nodes`.", []string{"node"}, nil)
	descLinks  = prometheus.NewDesc("pcapsule_node_interfaces", "Interfaces that a node records or is to record, by state: up, down, gone.", []string{"node", "state"}, nil)
	descFree   = prometheus.NewDesc("pcapsule_hub_store_free_bytes", "What is free on the volume of a folder store.", nil, nil)
	descFloor  = prometheus.NewDesc("pcapsule_hub_store_floor_bytes", "What of it is kept free: with less, no snapshot is made.", nil, nil)
	descSeen   = prometheus.NewDesc("pcapsule_node_last_seen_timestamp_seconds", "When a node last reported.", []string{"node"}, nil)
)

func (c nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descNodes, descOpen, descLimit, descUsed, descPinned, descOldest, descDrops, descWarns, descLinks, descFree, descFloor, descSeen} {
		ch <- d
	}
}

func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	live, gone := 0, 0
	for _, n := range c.h.knownNodes() {
		if n.Live {
			live++
		} else {
			gone++
		}
		gauge(descLimit, float64(n.Ring.Limit), n.Name)
		gauge(descUsed, float64(n.Ring.Used), n.Name)
		gauge(descPinned, float64(n.Ring.Pinned), n.Name)
		gauge(descSeen, float64(n.LastSeen.UnixNano())/1e9, n.Name)
		if !n.Ring.Oldest.IsZero() {
			gauge(descOldest, float64(n.Ring.Oldest.UnixNano())/1e9, n.Name)
		}
		gauge(descWarns, float64(len(n.Warnings)), n.Name)
		states := map[string]int{api.InterfaceUp: 0, api.InterfaceDown: 0, api.InterfaceGone: 0}
		for _, i := range n.Interfaces {
			if i.State != "" {
				states[i.State]++
			}
		}
		for state, count := range states {
			gauge(descLinks, float64(count), n.Name, state)
		}
		ch <- prometheus.MustNewConstMetric(descDrops, prometheus.CounterValue, float64(n.Ring.Drops), n.Name)
	}
	gauge(descNodes, float64(live), "true")
	gauge(descNodes, float64(gone), "false")
	gauge(descOpen, float64(c.h.openSessions()))
	if v, ok := c.h.cfg.Store.(store.Volume); ok {
		if s, err := v.Space(); err == nil {
			floor, _ := s.Floor()
			gauge(descFree, float64(s.Free))
			gauge(descFloor, float64(floor))
		}
	}
}
