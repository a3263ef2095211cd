package packets

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// The C library's folders of kernel headers differ by architecture, and the
// object does not.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -tags linux -target bpfel,bpfeb -output-stem filter filter filter.bpf.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// Values of filter.bpf.c.
const (
	roleNone = iota
	roleAll
	roleLoopback
	rolePod
	roleUplink
	roleTunnel
	roleBetween
)

const (
	addrNode = 1 << iota
	addrPod
	addrTarget
	addrExcluded
	addrOwn
)

const (
	edgeNo = iota
	edgeArriving
	edgeBoth
)

const (
	outOwn = iota
	outBetween
	outUntargeted
	outUnknown
)

// A kernelFilter is filter.bpf.c in the kernel, and what its maps hold. Its
// methods may be called concurrently.
type kernelFilter struct {
	objects filterObjects

	mu        sync.Mutex
	settings  filterSettings
	links     map[uint32]filterLink
	addresses map[netip.Addr]uint32
	prefixes  map[netip.Prefix]struct{}
	own       map[End]struct{}
	ports     map[uint16]int // how many of own have a port
}

// newKernelFilter brings the filter into the kernel. Until its maps are filled it
// keeps nothing.
func newKernelFilter() (*kernelFilter, error) {
	k := &kernelFilter{
		links: map[uint32]filterLink{}, addresses: map[netip.Addr]uint32{}, prefixes: map[netip.Prefix]struct{}{},
		own: map[End]struct{}{}, ports: map[uint16]int{},
	}
	// Before Linux 5.11 maps count as locked memory. Where it cannot be raised,
	// loading tells.
	_ = rlimit.RemoveMemlock()
	if err := loadFilterObjects(&k.objects, nil); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, ErrNoBPF
		}
		return nil, fmt.Errorf("load the capture filter: %w", err)
	}
	k.settings.Generation = 1
	return k, k.configure(func(*filterSettings) {})
}

func (k *kernelFilter) close() error { return k.objects.Close() }

// attach makes it the filter of a socket, between one packet and the next.
func (k *kernelFilter) attach(r *ring) error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, k.objects.Choose.FD()); err != nil {
		return fmt.Errorf("attach capture filter: %w", os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// configure changes settings.
func (k *kernelFilter) configure(change func(*filterSettings)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set(change)
}

func (k *kernelFilter) set(change func(*filterSettings)) error {
	s := k.settings
	change(&s)
	if err := k.objects.Settings.Put(uint32(0), s); err != nil {
		return fmt.Errorf("set up the capture filter: %w", err)
	}
	k.settings = s
	return nil
}

// setLinks says what each interface is.
func (k *kernelFilter) setLinks(want map[uint32]filterLink) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return replace(k.objects.Links, k.links, want, func(i uint32) any { return i })
}

// setAddresses says whose each address is. A target that goes takes along what
// was heard from it.
func (k *kernelFilter) setAddresses(want map[netip.Addr]uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	forget := false
	own := uint8(0)
	for a, flags := range k.addresses {
		forget = forget || flags&addrTarget != 0 && want[a]&addrTarget == 0
	}
	for _, flags := range want {
		if flags&addrOwn != 0 {
			own = 1
		}
	}
	if err := replace(k.objects.Addresses, k.addresses, want, func(a netip.Addr) any { return address(a) }); err != nil {
		return err
	}
	return k.set(func(s *filterSettings) {
		s.OwnPods = own
		if forget {
			s.Generation = max(s.Generation+1, 1)
		}
	})
}

// setPrefixes says which addresses are those of pods of this node.
func (k *kernelFilter) setPrefixes(want map[netip.Prefix]struct{}) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	values := func(in map[netip.Prefix]struct{}) map[netip.Prefix]uint32 {
		out := make(map[netip.Prefix]uint32, len(in))
		for p := range in {
			out[p] = 1
		}
		return out
	}
	there := values(k.prefixes)
	err := replace(k.objects.Prefixes, there, values(want), func(p netip.Prefix) any {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		return filterPrefix{Bits: uint32(bits), Address: address(p.Addr())}
	})
	clear(k.prefixes)
	for p := range there {
		k.prefixes[p] = struct{}{}
	}
	return err
}

// replace makes a map of the kernel hold want. There is what it holds, and is
// kept so also when that fails halfway. What goes, goes first.
func replace[K, V comparable](m *ebpf.Map, there, want map[K]V, key func(K) any) error {
	for k := range there {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.Delete(key(k)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("change the capture filter: %w", err)
		}
		delete(there, k)
	}
	var failed error
	for k, v := range want {
		if old, ok := there[k]; ok && old == v {
			continue
		}
		if err := m.Put(key(k), v); err != nil {
			failed = fmt.Errorf("change the capture filter: %w", err)
			continue
		}
		there[k] = v
	}
	return failed
}

// leaveOut leaves out the packets of an end of a connection, or no longer.
func (k *kernelFilter) leaveOut(e End, on bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.own[e]; there == on {
		return nil
	}
	key := filterEndpoint{Address: address(e.Addr.Addr()), Port: e.Addr.Port(), Protocol: e.Protocol}
	if !on {
		delete(k.own, e)
		if err := k.objects.Own.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("change the capture filter: %w", err)
		}
		return k.countPort(e.Addr.Port(), -1)
	}
	if err := k.objects.Own.Put(key, uint32(1)); err != nil {
		return fmt.Errorf("leave out own connection %v: %w", e.Addr, err)
	}
	k.own[e] = struct{}{}
	return k.countPort(e.Addr.Port(), 1)
}

// countPort keeps the ports of own connections.
func (k *kernelFilter) countPort(port uint16, by int) error {
	k.ports[port] += by
	if k.ports[port] == 0 {
		delete(k.ports, port)
	}
	element := uint32(port / 64)
	var bits uint64
	for i := range uint16(64) {
		if k.ports[port&^63+i] > 0 {
			bits |= 1 << i
		}
	}
	if err := k.objects.OwnPorts.Put(element, bits); err != nil {
		return fmt.Errorf("change the capture filter: %w", err)
	}
	used := uint8(0)
	if len(k.ports) > 0 {
		used = 1
	}
	if k.settings.OwnPorts == used {
		return nil
	}
	return k.set(func(s *filterSettings) { s.OwnPorts = used })
}

// leftOut counts the packets that were left out so far.
func (k *kernelFilter) leftOut() (LeftOut, error) {
	var sums [outUnknown + 1]uint64
	for reason := range sums {
		var perCPU []uint64
		if err := k.objects.LeftOut.Lookup(uint32(reason), &perCPU); err != nil {
			return LeftOut{}, fmt.Errorf("read counts of the capture filter: %w", err)
		}
		for _, n := range perCPU {
			sums[reason] += n
		}
	}
	return LeftOut{Own: sums[outOwn], Between: sums[outBetween], Untargeted: sums[outUntargeted], Unknown: sums[outUnknown]}, nil
}

// address is a as the filter compares it.
func address(a netip.Addr) (out filterAddress) {
	b := a.As16()
	for i := range out.Word {
		out.Word[i] = native.Uint32(b[4*i:])
	}
	return out
}
