// Package cluster is the kubernetes stream: what there was in a cluster, and
// when. Its records are the lines of the stream's chunks; FORMAT.md beside this
// file specifies them. An agent writes them (agent/kubernetes), and whoever
// exports or looks asks a Table of them which pod had an address at a
// nanosecond.
//
// What always holds: a chunk can be read by itself, as it opens with a keyframe,
// the whole state. Secrets, environment values, annotations, and commands with
// their arguments are in no record, since no type here has room for them.
//
// The package knows no API server, no sockets and no wall clock.
package cluster

import (
	"time"

	"pcapsule/manifest"
)

// Version of the records, as it stands in keyframes.
const Version = 1

// Ops of records.
const (
	OpKeyframe = "keyframe" // opens a chunk; the state follows, then complete
	OpState    = "state"    // an object that was there when the keyframe was taken
	OpComplete = "complete" // ends the keyframe
	OpSet      = "set"      // an object that came, or changed
	OpGone     = "gone"     // an object that was deleted, in its last state
	OpEvent    = "event"    // a Kubernetes Event
	OpAlive    = "alive"    // nothing was missed until here
	OpGap      = "gap"      // from Gap.From until here changes may have been missed
)

// A Record is one line. Time is when the recording agent learnt of it, by its
// node's clock. Of the members after Op that one is set which Op asks for; of
// the objects exactly one with OpState, OpSet, OpGone and OpEvent.
type Record struct {
	Time manifest.Nanos `json:"ts"`
	Op   string         `json:"op"`

	Keyframe *Keyframe `json:"keyframe,omitempty"` // OpKeyframe
	Objects  int       `json:"objects,omitempty"`  // OpComplete: how many states there were
	Gap      *Gap      `json:"gap,omitempty"`      // OpGap

	Pod       *Pod       `json:"pod,omitempty"`
	Service   *Service   `json:"service,omitempty"`
	Endpoints *Endpoints `json:"endpoints,omitempty"`
	Node      *Node      `json:"node,omitempty"`
	Namespace *Namespace `json:"namespace,omitempty"`
	Workload  *Workload  `json:"workload,omitempty"`
	Event     *Event     `json:"event,omitempty"` // OpEvent; not part of the state
}

// A Keyframe says who recorded the chunk.
type Keyframe struct {
	Version int            `json:"version"`
	Cluster string         `json:"cluster"`           // UID of the namespace kube-system, by which clusters are told apart
	Node    string         `json:"node"`              // whose agent recorded this
	Clock   manifest.Clock `json:"clock"`             // of that node, against the hub's
	Missing []string       `json:"missing,omitempty"` // resources that it was not allowed to see, as in cronjobs
}

// A Gap is a time in which changes were missed, or stand after it and late; the
// state after it is right. It may begin before records that said alive.
type Gap struct {
	From   manifest.Nanos `json:"from"`
	Reason string         `json:"reason"` // one of manifest's reasons of gaps
}

// Ref names an object.
type Ref struct {
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
}

// Meta is what all objects have.
type Meta struct {
	UID       string            `json:"uid"`
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name"`
	Created   time.Time         `json:"created,omitzero"`
	Deleted   time.Time         `json:"deleted,omitzero"` // when deletion was asked for
	Labels    map[string]string `json:"labels,omitempty"`
	Owner     *Ref              `json:"owner,omitempty"` // that controls it
}

// A Pod. Its times are the cluster's, which Kubernetes keeps to the second, by
// the clocks of its nodes and API servers.
type Pod struct {
	Meta
	Node           string      `json:"node,omitempty"`
	Addresses      []string    `json:"addresses,omitempty"`
	HostNetwork    bool        `json:"host_network,omitempty"` // its addresses are its node's
	Phase          string      `json:"phase,omitempty"`
	Reason         string      `json:"reason,omitempty"`   // of the phase: Evicted, …
	Started        time.Time   `json:"started,omitzero"`   // when its node took it up
	Sandboxed      time.Time   `json:"sandboxed,omitzero"` // when it got its network, where the cluster tells
	ServiceAccount string      `json:"service_account,omitempty"`
	Containers     []Container `json:"containers,omitempty"` // init containers first
}

// A Container of a pod.
type Container struct {
	Name     string    `json:"name"`
	Image    string    `json:"image,omitempty"`
	ImageID  string    `json:"image_id,omitempty"`
	ID       string    `json:"id,omitempty"` // runtime://hex
	Ports    []Port    `json:"ports,omitempty"`
	Restarts int       `json:"restarts,omitempty"`
	State    string    `json:"state,omitempty"`  // waiting, running, terminated
	Reason   string    `json:"reason,omitempty"` // of the state: CrashLoopBackOff, OOMKilled, …
	ExitCode int       `json:"exit_code,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`

	Last *LastRun `json:"last,omitempty"` // the run before this one
}

// LastRun is how a container's previous run ended.
type LastRun struct {
	Reason   string    `json:"reason,omitempty"`
	ExitCode int       `json:"exit_code,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
}

// A Port of a container, a service or endpoints.
type Port struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol,omitempty"` // TCP, UDP, SCTP
	Port     int    `json:"port,omitempty"`
	Target   string `json:"target,omitempty"`    // of a service: port or port name of its pods
	NodePort int    `json:"node_port,omitempty"` // of a service
	HostPort int    `json:"host_port,omitempty"` // of a container
}

// A Service.
type Service struct {
	Meta
	Type      string            `json:"type,omitempty"`
	Addresses []string          `json:"addresses,omitempty"` // cluster addresses; none when headless
	External  []string          `json:"external,omitempty"`  // external and load balancer addresses
	Ports     []Port            `json:"ports,omitempty"`
	Selector  map[string]string `json:"selector,omitempty"`
}

// Endpoints are an EndpointSlice: a part of those who serve a service.
type Endpoints struct {
	Meta
	Service string     `json:"service"` // its name, in the same namespace
	Ports   []Port     `json:"ports,omitempty"`
	Members []Endpoint `json:"members,omitempty"`
}

// An Endpoint serves a service.
type Endpoint struct {
	Addresses   []string `json:"addresses"`
	Node        string   `json:"node,omitempty"`
	Pod         *Ref     `json:"pod,omitempty"`
	Ready       bool     `json:"ready,omitempty"`
	Terminating bool     `json:"terminating,omitempty"`
}

// A Node of the cluster.
type Node struct {
	Meta
	Addresses     []string          `json:"addresses,omitempty"` // internal and external
	PodRanges     []string          `json:"pod_ranges,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	Conditions    map[string]string `json:"conditions,omitempty"` // Ready: True, …
	Kubelet       string            `json:"kubelet,omitempty"`    // version
	Runtime       string            `json:"runtime,omitempty"`    // of containers, with its version
}

// A Namespace.
type Namespace struct {
	Meta
	Phase string `json:"phase,omitempty"`
}

// A Workload owns pods, or owns what owns them.
type Workload struct {
	Meta
	Kind     string            `json:"kind"` // Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob
	Replicas int               `json:"replicas,omitempty"`
	Ready    int               `json:"ready,omitempty"`
	Selector map[string]string `json:"selector,omitempty"`
}

// An Event is something that Kubernetes reports of an object.
type Event struct {
	Meta
	About   Ref       `json:"about"`
	Type    string    `json:"type,omitempty"` // Normal, Warning
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Source  string    `json:"source,omitempty"` // component that reports it
	Host    string    `json:"host,omitempty"`   // its node
	Count   int       `json:"count,omitempty"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}
