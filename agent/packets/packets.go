// Package packets captures what passes a machine's network interfaces and hands
// it, record by record, to a consumer (in practice a chunker.Cutter) a worker.
//
// A Capture opens one packet socket a worker for all interfaces of the network
// namespace it is opened in. The kernel filters (Filter), spreads packets over
// the workers by flow, and lays them into a ring of memory blocks that both
// sides see. A worker walks the blocks, gives each frame its link layer back as
// it was on the wire, and returns the block. No system call and no allocation is
// made for a single packet.
//
// What always holds: a record carries the bytes, the time, the direction and the
// interface that the kernel reported. Whatever could not be recorded is counted
// and told to Config.OnDrops. Each packet is recorded once an interface it
// passes: of the two copies that loopback delivers, the outgoing one is left
// out. On a node of a cluster (Config.Cluster) it is recorded where it leaves a
// pod or the node and where it arrives, and not on the way; TARGETING.md says
// how that is decided, in the kernel.
//
// It is not for reading capture files (internal/capfile), nor does it decide
// what to keep of the past (agent/ring). Capturing works on Linux; elsewhere New
// returns an error.
package packets

import (
	"errors"
	"log/slog"
	"net/netip"

	"pcapsule/chunker"
)

// A Consumer takes the records of one worker. *chunker.Cutter is one. All its
// methods are called from the worker's goroutine. An error from any of them ends
// the capture.
type Consumer interface {
	// Interface numbers an interface; equal ones get the same number.
	Interface(chunker.Interface) uint32
	// Add takes a record, whose Data is only valid during the call. Records
	// come nearly in order of time: what several CPUs deliver at once may be
	// out of order by microseconds.
	Add(*chunker.Record) error
	// Tick is called a few times a second. Now is the time of day, or that of
	// the newest record while the worker has records waiting to be added.
	Tick(now int64) error
	// Cut seals what was added so far.
	Cut() error
	// Drops tells that the kernel dropped n packets since it was last called.
	Drops(n uint64)
	// SetStored asks to store records without compressing them, which is
	// faster, or to compress again.
	SetStored(bool)
	// Close seals what was added so far, at the end.
	Close() error
}

// Config says what to capture and where it goes.
type Config struct {
	// Interfaces to capture on, by name; all when empty. They must exist when
	// the capture is opened. One that is renamed is captured on under its new
	// name; one that goes is captured again when an interface of that name comes
	// back.
	Interfaces []string
	// NoPromiscuous leaves the named interfaces as they are. Otherwise they are
	// made promiscuous, as other capture programs do, so that what a mirror port
	// sends is captured too. Without names no interface is.
	NoPromiscuous bool
	// Workers is how many sockets and goroutines share the packets. 0 chooses
	// by the number of CPUs.
	Workers int
	// RingSize is how many bytes of kernel memory hold packets that wait to be
	// read, over all workers. 0 is DefaultRingSize.
	RingSize int
	// Own are connections that are left out, such as the agent's with its hub,
	// which would otherwise record itself. May be nil.
	Own *Own
	// Exclude leaves out TCP packets from or to these addresses where Own cannot
	// be: without eBPF. See Filter for what it looks through.
	Exclude []netip.AddrPort
	// Cluster, when not nil, says that this machine is a node of a Kubernetes
	// cluster, and whose packets are recorded until SetTargets says otherwise.
	// That takes eBPF: New fails with ErrNoBPF where it is not allowed.
	Cluster *Targets
	// Fair is how many bytes of packets an address may have recorded at once, and
	// again each hour; the rest is left out, and told to OnThinned. 0 bounds nothing.
	Fair int64
	// NewConsumer makes the consumer of a worker.
	NewConsumer func(worker int) Consumer

	// OnDrops, when set, is told that the kernel dropped count packets, or that
	// they could not be read, between from and to (nanoseconds since the Unix
	// epoch). Workers call it concurrently.
	OnDrops func(count uint64, from, to int64)
	// OnThinned, when set, is told that count packets of an address that had its share
	// (see Fair) were left out; of several such addresses when it is invalid.
	OnThinned func(address netip.Addr, count uint64, from, to int64)
	// OnClockStep, when set, is told that the time of day was set: it jumped by
	// delta nanoseconds and is now at. Slewing, as NTP does it, is no step, nor
	// is a machine that slept.
	OnClockStep func(at, delta int64)
	// OnNamed, when set, is told what became of the interfaces in Interfaces, at a
	// time: as the capture begins to run, and after each change. Calls come one
	// after another, and must return soon.
	OnNamed func(at int64, list []Named)

	Logger *slog.Logger

	classic bool // as where eBPF is not allowed; for tests
}

// Targets say whose packets are recorded on a node of a cluster.
type Targets struct {
	// Selective records packets of pods that are a Target alone. Otherwise all
	// are recorded but those of an Own one.
	Selective bool
	// Node records the traffic of the node itself, and so of all pods on its
	// network: the kernel cannot tell one from another.
	Node bool
	// Pods are those of this node that have a network of their own, by address.
	Pods map[netip.Addr]Pod
	// NodeAddresses are by which the cluster knows this node. An interface that
	// has one leads to the world, not to a pod.
	NodeAddresses []netip.Addr
}

// Pod is what is done with the packets of a pod.
type Pod uint8

const (
	Untargeted Pod = iota // not recorded, if Selective, for its own sake
	Target                // recorded
	Excluded              // never recorded at its own interface
	OwnPod                // a hub of ours: never recorded anywhere
)

// LeftOut counts packets that the filter left out on purpose, by reason.
type LeftOut struct {
	Own        uint64 // of our own connections and pods
	Between    uint64 // on their way: recorded where they leave or arrive, if at all
	Untargeted uint64 // of pods that are no target
	Unknown    uint64 // of pods that were not known yet, or interfaces
}

// DefaultRingSize is 64 MiB: half a second of 1 Gbit/s, while the disk stalls.
const DefaultRingSize = 64 << 20

// Stats are counts since the capture was opened, and its present state.
type Stats struct {
	Packets   uint64 // handed to the consumers
	Bytes     uint64 // of those packets, as recorded
	Drops     uint64 // dropped by the kernel for want of room, or unreadable
	Freezes   uint64 // times a ring was full
	Truncated uint64 // packets longer than chunker.SnapLen, cut to it
	Stored    uint64 // packets recorded without compression, as it had fallen behind
	Behind    int    // workers that do without compression now
	RingSize  int    // bytes, over all workers
	Backlog   int    // bytes of blocks that are waiting to be read
	LeftOut   LeftOut
}

// An Interface is one that is captured on, or is to be.
type Interface struct {
	chunker.Interface
	Index int // 0 when it is gone
	Up    bool
	Gone  bool   // it was named, and no device of that name is there
	Speed uint64 // bits per second; 0 when unknown
}

// A Named is an interface that Config.Interfaces names, as it is now.
type Named struct {
	Name    string
	State   NamedState
	Devices []int    // indexes of the devices that are captured on for it
	As      []string // what each of them is called now: Name, unless it was renamed
	Last    chunker.Interface
}

// NamedState tells whether packets can pass a named interface, and be captured.
type NamedState uint8

const (
	NamedUp   NamedState = iota // a device is there, and up
	NamedDown                   // it is there, and set down
	NamedGone                   // it was removed, or moved to another network namespace
)

// Errors that callers branch on.
var (
	ErrPermission  = errors.New("capturing needs root or CAP_NET_RAW: run with sudo, or once `setcap cap_net_raw,cap_net_admin+ep` on the program")
	ErrNoInterface = errors.New("no such network interface")
	ErrNoBPF       = errors.New("recording by pod needs eBPF, for which this process lacks a capability: give it CAP_BPF, or CAP_SYS_ADMIN before Linux 5.8 (and CAP_SYS_RESOURCE before 5.11)")
	ErrNotRunning  = errors.New("capture is not running")
)
