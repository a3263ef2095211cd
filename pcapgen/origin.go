package pcapgen

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// What imported captures said of themselves and of their interfaces, as an export
// says it again.

// origins are those of an interface of the output.
func (i *outInterface) origins() (list []manifest.Origin) {
	for _, o := range i.node.Origins {
		if o.Interface == i.Interface {
			list = append(list, o)
		}
	}
	return list
}

// origins are those of all interfaces of the output.
func (p *plan) origins() (list []manifest.Origin) {
	for n := range p.interfaces {
		list = append(list, p.interfaces[n].origins()...)
	}
	return list
}

// captured is on what machines, with what systems, the captures were made.
func (p *plan) captured() (hardware, system string) {
	list := p.origins()
	return strings.Join(distinct(list, func(o *manifest.Origin) string { return o.CaptureHardware }), "; "),
		strings.Join(distinct(list, func(o *manifest.Origin) string { return o.CaptureOS }), "; ")
}

// distinct are the texts that origins have, each once, in order.
func distinct(list []manifest.Origin, text func(*manifest.Origin) string) (out []string) {
	for i := range list {
		if s := text(&list[i]); s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// originate adds what the interface's origins say. A filter, or a speed, of only
// some of its packets is none of the whole interface: a comment tells of it.
func (i *outInterface) originate(d *pcapng.Interface) {
	list := i.origins()
	if len(list) == 0 {
		return
	}
	get := func(text func(*manifest.Origin) string) []string { return distinct(list, text) }
	join := func(text func(*manifest.Origin) string) string { return strings.Join(get(text), "; ") }
	comments := get(func(o *manifest.Origin) string { return o.Comment })
	whole := func(what string, text func(*manifest.Origin) string) string {
		all := get(text)
		if len(all) == 1 && !slices.ContainsFunc(list, func(o manifest.Origin) bool { return text(&o) == "" }) {
			return all[0]
		}
		if len(all) > 0 {
			comments = append(comments, fmt.Sprintf("%s of some of its packets: %s", what, strings.Join(all, "; ")))
		}
		return ""
	}
	if os := join(func(o *manifest.Origin) string { return o.OS }); os != "" {
		d.OS = os
	}
	d.Hardware = join(func(o *manifest.Origin) string { return o.Hardware })
	d.Filter = whole("filter", func(o *manifest.Origin) string { return o.Filter })
	for _, mac := range distinctFields(get(func(o *manifest.Origin) string { return o.MAC })) {
		switch b, err := net.ParseMAC(mac); {
		case err == nil && len(b) == 6:
			d.Options = pcapng.AppendOption(d.Options, pcapng.OptIfMAC, b)
		case err == nil && len(b) == 8:
			d.Options = pcapng.AppendOption(d.Options, pcapng.OptIfEUI, b)
		}
	}
	for _, addr := range distinctFields(get(func(o *manifest.Origin) string { return o.Addresses })) {
		p, err := netip.ParsePrefix(addr)
		switch {
		case err == nil && p.Addr().Is4():
			d.Options = pcapng.AppendOption(d.Options, pcapng.OptIfIPv4, append(p.Addr().AsSlice(), net.CIDRMask(p.Bits(), 32)...))
		case err == nil:
			d.Options = pcapng.AppendOption(d.Options, pcapng.OptIfIPv6, append(p.Addr().AsSlice(), byte(p.Bits())))
		}
	}
	if n, err := strconv.ParseUint(whole("speed", func(o *manifest.Origin) string { return o.Speed }), 10, 64); err == nil {
		d.Options = pcapng.AppendOption(d.Options, pcapng.OptIfSpeed, binary.LittleEndian.AppendUint64(nil, n))
	}
	for _, c := range comments {
		d.Options = pcapng.AppendOption(d.Options, pcapng.OptComment, []byte(c))
	}
}

// distinctFields are the words of texts, each once, in order.
func distinctFields(texts []string) []string {
	words := strings.Fields(strings.Join(texts, " "))
	slices.Sort(words)
	return slices.Compact(words)
}
