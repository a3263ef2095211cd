package pcapgen

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pcapsule/manifest"
	"pcapsule/store"
)

// A Format is a kind of capture file.
type Format int

// Formats.
const (
	PcapNG Format = iota // one section, all interfaces, nanoseconds
	Pcap                 // classic pcap with nanoseconds: one link type, no interfaces, no options
)

// ParseFormat reads what String writes.
func ParseFormat(s string) (Format, error) {
	switch s {
	case PcapNG.String():
		return PcapNG, nil
	case Pcap.String():
		return Pcap, nil
	}
	return 0, fmt.Errorf("format %q is not known: use pcapng or pcap", s)
}

func (f Format) String() string {
	if f == Pcap {
		return "pcap"
	}
	return "pcapng"
}

// A Request says what to export. The zero Request is the whole snapshot, as
// pcapng.
type Request struct {
	// Range is in the hub's time. What lies outside of the snapshot's window is
	// never exported.
	Range manifest.Range

	Nodes      []string // names; all when empty
	Interfaces []string // names, on every chosen node; all when empty

	// Names of a cluster, as of each packet's time. Pods and Services are
	// NAMESPACE/NAME, or NAME, which is looked for in Namespaces or, without any, in
	// all; * stands for any characters. A packet is exported when for each of the
	// three that is given, its source or its destination has one of the names. A
	// service has its own addresses and those of the pods that serve it.
	// Namespaces are those of pods with an address of their own, and of services.
	Pods, Namespaces, Services []string

	Format Format
	Plain  bool // without names, comments and events, which pcapng has otherwise
}

// only says which names were asked for.
func (r *Request) only() (out []string) {
	for _, of := range []struct {
		kind  string
		names []string
	}{{"pod ", r.Pods}, {"namespace ", r.Namespaces}, {"service ", r.Services}} {
		for _, n := range of.names {
			out = append(out, of.kind+n)
		}
	}
	return out
}

// A Source is the snapshot to export from.
type Source struct {
	Manifest *manifest.Manifest // valid; signatures are the caller's to check
	Store    store.Store        // that holds its chunks

	// Inventory reads, verifies and validates one of the manifest's inventories.
	Inventory func(context.Context, manifest.Stream) ([]manifest.Entry, error)
}

// Stats tell what an export did.
type Stats struct {
	Records uint64 // packets written
	Bytes   int64  // written
	Chunks  int    // read
	Drops   uint64 // packets that the kernel dropped while these chunks were recorded
	Empty   string // without packets: why, for people
}

// ErrWindow is wrapped by the error for a window that ends before it begins.
var ErrWindow = errors.New("the window ends before it begins")

// UnknownNodeError is the error for a node that the snapshot does not have.
type UnknownNodeError struct {
	Node  string
	Known []string // sorted
}

func (e *UnknownNodeError) Error() string {
	return fmt.Sprintf("the snapshot has no node %q; it has %s", e.Node, enumerate(e.Known, 20))
}

// UnknownInterfaceError is the error for an interface that no chosen node has.
type UnknownInterfaceError struct {
	Interface string
	Known     []string // names, sorted
}

func (e *UnknownInterfaceError) Error() string {
	return fmt.Sprintf("no chosen node has an interface %q; there is %s", e.Interface, enumerate(e.Known, 20))
}

// MixedLinkTypesError is the error for a classic pcap of packets that do not all
// have the same link type.
type MixedLinkTypesError struct {
	Interfaces []LinkType // sorted by link type, then as in the output
}

// A LinkType is that of one interface.
type LinkType struct {
	Node, Interface string
	LinkType        uint16
}

func (e *MixedLinkTypesError) Error() string {
	var kinds []string
	for rest := e.Interfaces; len(rest) > 0; {
		var names []string
		lt := rest[0].LinkType
		for len(rest) > 0 && rest[0].LinkType == lt {
			names = append(names, rest[0].Node+":"+rest[0].Interface)
			rest = rest[1:]
		}
		kinds = append(kinds, fmt.Sprintf("%s on %s", linkTypeName(lt), enumerate(names, 3)))
	}
	return fmt.Sprintf("a classic pcap holds one link type, and here is %s: use --format pcapng, or choose with --interface or --node",
		strings.Join(kinds, "; "))
}

func linkTypeName(lt uint16) string {
	switch lt {
	case 0:
		return "BSD loopback"
	case 1:
		return "Ethernet"
	case 101:
		return "raw IP"
	case 105:
		return "IEEE 802.11"
	case 113:
		return "Linux cooked"
	case 276:
		return "Linux cooked v2"
	}
	return fmt.Sprintf("link type %d", lt)
}

// enumerate names at most limit things.
func enumerate(names []string, limit int) string {
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > limit:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
	}
	return strings.Join(names, ", ")
}
