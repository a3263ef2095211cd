// Package manifest is the snapshot format: the signed manifest at the root of a
// snapshot, the inventories it names, and the layout of both in a store.
//
// FORMAT.md beside this file specifies them. The package encodes, decodes and
// validates; it signs and checks signatures of exact bytes. It does no I/O on
// stores and knows no clock.
package manifest

import (
	"pcapsule/chunker"
)

// Format and Version stand in every manifest. A reader refuses a version that it
// does not know and ignores members that it does not know.
const (
	Format  = "pcapsule.manifest"
	Version = 1
)

// Status of a snapshot and of a node in it.
const (
	Completed   = "completed"
	Partial     = "partial"     // something that was asked for is missing; Reasons say what
	Unreachable = "unreachable" // of a node: it did not answer by the deadline
)

// Reasons of gaps.
const (
	GapEvicted     = "evicted"      // recorded once, and recycled by the ring
	GapNotRunning  = "not-running"  // no agent captured
	GapKernelDrop  = "kernel-drop"  // the kernel had no room for the packet
	GapRingOverrun = "ring-overrun" // the ring was full of pinned chunks
	GapDiskFull    = "disk-full"    // the ring's file system was full
	GapUnreachable = "unreachable"  // the node did not answer
	GapClockStep   = "clock-step"   // the node's clock jumped; Count is the jump in nanoseconds, Detail its direction
	GapDamaged     = "damaged"      // a chunk in the ring no longer had its hash
	GapTruncated   = "truncated"    // an import ended inside a packet or in damage, or held some that a chunk cannot
	GapNotImported = "not-imported" // the imported files of this node hold nothing of that time
	GapSkipped     = "skipped"      // an import held something other than packets
	GapWatchLost   = "watch-lost"   // the API server of a cluster could not be asked, or had forgotten where the recorder stopped
	GapUntimed     = "untimed"      // an import held packets without a time: each stands at that of the packet before
	GapUnreadable  = "unreadable"   // a file to import held nothing that could be read
	GapCorrected   = "corrected"    // an import said something that cannot be, and what is in the chunks instead
	GapFiltered    = "filtered"     // packets that the filter of an imported capture left out, on purpose
	GapOverShare   = "over-share"   // packets that the agent left out since their address, in Detail, had had its share of the ring

	// Of an interface that was named, and of no other: whatever else was to be
	// recorded was. Where all named ones have such a gap, nothing was.
	GapInterfaceGone = "interface-gone" // it was removed, or moved to another network namespace
	GapInterfaceDown = "interface-down" // it was set down, so that nothing could pass it
)

// A Manifest is the root of a snapshot. The signature covers its exact bytes,
// and through the hashes everything else.
type Manifest struct {
	Format  string   `json:"format"`
	Version int      `json:"version"`
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Created Nanos    `json:"created"`
	Window  Interval `json:"window"` // in the hub's time
	Status  string   `json:"status"`
	Reasons []string `json:"reasons,omitempty"` // of Partial, for people
	Creator Tool     `json:"creator"`
	Totals  Totals   `json:"totals"`
	Nodes   []Node   `json:"nodes"`             // sorted by name
	Streams []Stream `json:"streams,omitempty"` // of the cluster, not of a node

	// Of the window, when the stream kubernetes was recorded, and why not when it
	// was not; in the hub's time. Both are empty where there is no cluster.
	Coverage []Interval `json:"coverage,omitempty"`
	Gaps     []Gap      `json:"gaps,omitempty"`
}

// Tool says which program wrote a manifest.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Totals sum up all streams.
type Totals struct {
	Chunks  int64  `json:"chunks"`
	Size    int64  `json:"size"`     // stored bytes of the chunks
	RawSize int64  `json:"raw_size"` // bytes before compression
	Records uint64 `json:"records"`
	Drops   uint64 `json:"drops"`
}

// An Interval is half open: From is in it, To is not.
type Interval struct {
	From Nanos `json:"from"`
	To   Nanos `json:"to"`
}

// A Node is what one machine contributed. Its times are by its own clock.
type Node struct {
	Name       string              `json:"name"`
	Status     string              `json:"status"`
	Reasons    []string            `json:"reasons,omitempty"`
	Clock      Clock               `json:"clock"`
	Coverage   []Interval          `json:"coverage"` // within the window, when its packets were recorded
	Gaps       []Gap               `json:"gaps,omitempty"`
	Capture    []Capture           `json:"capture,omitempty"`
	Interfaces []chunker.Interface `json:"interfaces"`        // that its chunks describe, sorted by name
	Origins    []Origin            `json:"origins,omitempty"` // of imported ones: what captures say; sorted
	Versions   Versions            `json:"versions"`
	Streams    []Stream            `json:"streams"`
}

// Clock is how far a node's clock was ahead of the hub's, known to within Error.
type Clock struct {
	Offset Nanos `json:"offset"`
	Error  Nanos `json:"error"`
}

// Versions of what recorded.
type Versions struct {
	Agent  string `json:"agent"`
	Kernel string `json:"kernel,omitempty"`
	OS     string `json:"os,omitempty"`
	Arch   string `json:"arch,omitempty"`
}

// A Gap is a time for which a stream is incomplete, and why.
type Gap struct {
	Stream    string `json:"stream"`
	Reason    string `json:"reason"`
	From      Nanos  `json:"from"`
	To        Nanos  `json:"to"`
	Count     uint64 `json:"count,omitempty"` // records lost, where known
	Interface string `json:"interface,omitempty"`
	Detail    string `json:"detail,omitempty"`
}

// A Stream names an inventory and sums it up.
type Stream struct {
	Stream        string `json:"stream"`         // chunker.Packets, OS or Kubernetes
	Inventory     string `json:"inventory"`      // key; its BLAKE3 is in it
	InventorySize int64  `json:"inventory_size"` // bytes
	Totals
	First Nanos `json:"first"` // of the earliest record; 0 when there is none
	Last  Nanos `json:"last"`
}

// An Entry is one line of an inventory: one chunk. Entries are in order of
// First, Last and Key.
type Entry struct {
	Key     string `json:"key"`
	Size    int64  `json:"size"`
	RawSize int64  `json:"raw_size"`
	SHA256  string `json:"sha256"` // of the stored bytes, 64 hex digits
	First   Nanos  `json:"first"`
	Last    Nanos  `json:"last"` // inclusive
	Records uint64 `json:"records"`
	Drops   uint64 `json:"drops"`
}
