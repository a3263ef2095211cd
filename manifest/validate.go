package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"pcapsule/chunker"
)

// Limits of what a manifest and an inventory may claim. Whoever allocates or
// fetches by such a number has it checked first.
const (
	MaxNodes     = 16384     // three times the largest clusters
	MaxInventory = 256 << 20 // bytes; some 6 TiB of one stream at 8 MiB a chunk
	MaxCount     = 1<<53 - 1 // of any JSON number: what every reader holds exactly
)

// Validate checks all that a manifest can show to be wrong by itself.
func (m *Manifest) Validate() error {
	if err := checkFormat(m.Format, Format, m.Version, Version); err != nil {
		return err
	}
	if err := CheckID(m.ID); err != nil {
		return err
	}
	if err := CheckName(m.Name); err != nil {
		return err
	}
	if m.Created <= 0 {
		return fmt.Errorf("created is %d, want a time", m.Created)
	}
	if m.Window.From >= m.Window.To {
		return fmt.Errorf("window from %d to %d is empty", m.Window.From, m.Window.To)
	}
	if err := checkText("creator", m.Creator.Name); err != nil {
		return err
	}
	if err := checkText("creator's version", m.Creator.Version); err != nil {
		return err
	}
	if m.Creator.Name == "" {
		return errors.New("creator is empty")
	}
	if err := m.validateNodes(); err != nil {
		return err
	}
	if err := validateStreams(m.Streams); err != nil {
		return err
	}
	for _, s := range m.Streams {
		if s.Stream == chunker.Packets || s.Stream == chunker.OS {
			return fmt.Errorf("stream %s is of a node, not of the cluster", s.Stream)
		}
	}
	if err := validateAccount(m.Coverage, m.Gaps); err != nil {
		return err
	}
	for _, g := range m.Gaps {
		if g.Stream == chunker.Packets || g.Stream == chunker.OS {
			return fmt.Errorf("a gap of stream %s is of a node, not of the cluster", g.Stream)
		}
	}
	sum, err := m.sum()
	if err != nil {
		return err
	}
	if m.Totals != sum {
		return fmt.Errorf("totals are %+v, the streams add up to %+v", m.Totals, sum)
	}
	return nil
}

func (m *Manifest) validateNodes() error {
	if len(m.Nodes) > MaxNodes {
		return fmt.Errorf("%d nodes, at most %d", len(m.Nodes), MaxNodes)
	}
	whole := true
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if err := n.Validate(); err != nil {
			return fmt.Errorf("node %.80q: %w", n.Name, err)
		}
		if i > 0 && m.Nodes[i-1].Name >= n.Name {
			return fmt.Errorf("node %q is twice or out of order", n.Name)
		}
		whole = whole && n.Status == Completed
	}
	switch m.Status {
	case Completed:
		if !whole || len(m.Reasons) > 0 {
			return errors.New("status is completed, yet a node is not or there are reasons against it")
		}
	case Partial:
		if len(m.Reasons) == 0 {
			return errors.New("status is partial without a reason")
		}
	default:
		return fmt.Errorf("status %.40q is unknown", m.Status)
	}
	return checkTexts("reason", m.Reasons)
}

// Validate checks one node's part of a manifest, as an agent hands it in.
func (n *Node) Validate() error {
	if err := CheckNode(n.Name); err != nil {
		return err
	}
	switch n.Status {
	case Completed:
		if len(n.Reasons) > 0 {
			return errors.New("status is completed, yet there are reasons against it")
		}
	case Partial:
		if len(n.Reasons) == 0 {
			return errors.New("status is partial without a reason")
		}
	case Unreachable:
		if len(n.Streams) > 0 || len(n.Coverage) > 0 || len(n.Capture) > 0 {
			return errors.New("status is unreachable, yet it has streams, coverage or captures")
		}
	default:
		return fmt.Errorf("status %.40q is unknown", n.Status)
	}
	if err := checkTexts("reason", n.Reasons); err != nil {
		return err
	}
	if n.Clock.Error < 0 {
		return fmt.Errorf("clock error %d is negative", n.Clock.Error)
	}
	if err := validateAccount(n.Coverage, n.Gaps); err != nil {
		return err
	}
	if err := CheckCaptures(n.Capture); err != nil {
		return err
	}
	if err := validateInterfaces(n.Interfaces); err != nil {
		return err
	}
	if err := validateOrigins(n.Origins); err != nil {
		return err
	}
	v := n.Versions
	if err := checkTexts("version", []string{v.Agent, v.Kernel, v.OS, v.Arch}); err != nil {
		return err
	}
	return validateStreams(n.Streams)
}

func validateAccount(coverage []Interval, gaps []Gap) error {
	for i, c := range coverage {
		if c.From >= c.To {
			return fmt.Errorf("coverage from %d to %d is empty", c.From, c.To)
		}
		if i > 0 && coverage[i-1].To > c.From {
			return fmt.Errorf("coverage from %d is out of order or overlaps", c.From)
		}
	}
	for _, g := range gaps {
		if err := g.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (g Gap) validate() error {
	if err := checkLabel("gap's stream", g.Stream); err != nil {
		return err
	}
	if err := checkLabel("gap's reason", g.Reason); err != nil {
		return err
	}
	if g.From > g.To {
		return fmt.Errorf("gap from %d to %d ends before it begins", g.From, g.To)
	}
	if g.Count > math.MaxInt64 {
		return fmt.Errorf("gap's count %d is too large", g.Count)
	}
	return checkTexts("gap's text", []string{g.Interface, g.Detail})
}

// CompareInterfaces is the order of interfaces in a manifest.
func CompareInterfaces(a, b chunker.Interface) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.LinkType, b.LinkType), cmp.Compare(a.Description, b.Description))
}

func validateInterfaces(list []chunker.Interface) error {
	for i, f := range list {
		if err := checkTexts("interface", []string{f.Name, f.Description}); err != nil {
			return err
		}
		if i > 0 && CompareInterfaces(list[i-1], f) >= 0 {
			return fmt.Errorf("interface %q is twice or out of order", f.Name)
		}
	}
	return nil
}

func validateStreams(list []Stream) error {
	for i, s := range list {
		if err := s.validate(); err != nil {
			return fmt.Errorf("stream %.40q: %w", s.Stream, err)
		}
		if i > 0 && list[i-1].Stream >= s.Stream {
			return fmt.Errorf("stream %q is twice or out of order", s.Stream)
		}
	}
	return nil
}

func (s Stream) validate() error {
	if err := checkLabel("stream", s.Stream); err != nil {
		return err
	}
	k, err := ParseObjectKey(s.Inventory)
	if err != nil {
		return err
	}
	if k.Kind != KindInventory {
		return fmt.Errorf("%s is not an inventory", s.Inventory)
	}
	if s.InventorySize < 0 || s.InventorySize > MaxInventory {
		return fmt.Errorf("inventory of %d bytes, at most %d", s.InventorySize, int64(MaxInventory))
	}
	if s.Chunks < 0 || s.Chunks > s.InventorySize/minLine {
		return fmt.Errorf("%d chunks do not fit an inventory of %d bytes", s.Chunks, s.InventorySize)
	}
	if err := s.Totals.validate(); err != nil {
		return err
	}
	if s.Chunks == 0 && (s.Totals != Totals{} || s.First != 0 || s.Last != 0 || s.InventorySize != 0) {
		return errors.New("no chunks, yet it counts something")
	}
	if s.First < 0 || s.First > s.Last {
		return fmt.Errorf("first record at %d, last at %d", s.First, s.Last)
	}
	return nil
}

// validate checks what holds of a stream and of a chunk alike.
func (t Totals) validate() error {
	if t.Size < 0 || t.Size > t.Chunks*chunker.MaxSize {
		return fmt.Errorf("%d bytes do not fit %d chunks of at most %d", t.Size, t.Chunks, chunker.MaxSize)
	}
	if t.RawSize < 0 || t.RawSize > t.Chunks*chunker.MaxRawSize {
		return fmt.Errorf("%d raw bytes do not fit %d chunks of at most %d", t.RawSize, t.Chunks, chunker.MaxRawSize)
	}
	if t.Records > uint64(t.RawSize) {
		return fmt.Errorf("%d records do not fit %d raw bytes", t.Records, t.RawSize)
	}
	if t.Drops > MaxCount {
		return fmt.Errorf("%d drops are too many", t.Drops)
	}
	return nil
}

// sum adds up all streams.
func (m *Manifest) sum() (Totals, error) {
	var sum Totals
	for i := range m.Nodes {
		for _, s := range m.Nodes[i].Streams {
			sum = sum.Add(s.Totals)
		}
	}
	for _, s := range m.Streams {
		sum = sum.Add(s.Totals)
	}
	for _, v := range []uint64{uint64(sum.Chunks), uint64(sum.Size), uint64(sum.RawSize), sum.Records, sum.Drops} {
		if v > MaxCount {
			return sum, fmt.Errorf("the streams add up to %d, at most %d", v, int64(MaxCount))
		}
	}
	return sum, nil
}

// Add is t and o together. Sums stop at the largest number instead of wrapping.
func (t Totals) Add(o Totals) Totals {
	return Totals{
		Chunks:  addSigned(t.Chunks, o.Chunks),
		Size:    addSigned(t.Size, o.Size),
		RawSize: addSigned(t.RawSize, o.RawSize),
		Records: addUnsigned(t.Records, o.Records),
		Drops:   addUnsigned(t.Drops, o.Drops),
	}
}

func addSigned(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func addUnsigned(a, b uint64) uint64 {
	if b > math.MaxUint64-a {
		return math.MaxUint64
	}
	return a + b
}

// SumUp sets m.Totals, and sorts the nodes, their interfaces and their streams
// as Validate wants them. It changes the lists in place.
func (m *Manifest) SumUp() {
	slices.SortFunc(m.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	byStream := func(a, b Stream) int { return cmp.Compare(a.Stream, b.Stream) }
	for i := range m.Nodes {
		slices.SortFunc(m.Nodes[i].Interfaces, CompareInterfaces)
		m.Nodes[i].Interfaces = slices.Compact(m.Nodes[i].Interfaces)
		slices.SortFunc(m.Nodes[i].Streams, byStream)
	}
	slices.SortFunc(m.Streams, byStream)
	m.Totals, _ = m.sum()
}

// checkLabel tells whether s is a word of the format: streams and reasons. A
// reader meets ones that it does not know, from later writers.
func checkLabel(what, s string) error {
	if s == "" || len(s) > 32 {
		return fmt.Errorf("%s %.40q: want 1 to 32 characters", what, s)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%s %q holds %q", what, s, c)
		}
	}
	return nil
}

func checkTexts(what string, list []string) error {
	for _, s := range list {
		if err := checkText(what, s); err != nil {
			return err
		}
	}
	return nil
}
