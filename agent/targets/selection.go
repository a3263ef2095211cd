package targets

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"pcapsule/agent/packets"
	"pcapsule/manifest"
)

// A Selection says which pods are targets: those that match all of it. The zero
// Selection matches every pod.
type Selection struct {
	regex      *regexp.Regexp
	namespaces []string
	excluded   []string
}

// NewSelection selects by a regular expression that a pod's name has to contain,
// by the namespaces that it may be in, and by those that it must not. Each may be
// empty.
func NewSelection(regex string, namespaces, excluded []string) (Selection, error) {
	s := Selection{namespaces: namespaces, excluded: excluded}
	if regex != "" && regex != ".*" {
		var err error
		if s.regex, err = regexp.Compile(regex); err != nil {
			return Selection{}, fmt.Errorf("pods' names: %w", err)
		}
	}
	return s, nil
}

// Selective tells whether there are pods that it does not match.
func (s Selection) Selective() bool { return s.positive() || len(s.excluded) > 0 }

// positive tells whether it asks for something, rather than only excludes.
func (s Selection) positive() bool { return s.regex != nil || len(s.namespaces) > 0 }

// Manifest is the selection as manifests have it.
func (s Selection) Manifest() manifest.Targets {
	t := manifest.Targets{Namespaces: s.namespaces, Excluded: s.excluded}
	if s.regex != nil {
		t.Regex = s.regex.String()
	}
	return t
}

// String says for people which pods are targets.
func (s Selection) String() string {
	var parts []string
	if s.regex != nil {
		parts = append(parts, fmt.Sprintf("with a name that matches %s", s.regex))
	}
	if len(s.namespaces) > 0 {
		parts = append(parts, "in the namespaces "+strings.Join(s.namespaces, ", "))
	}
	if len(s.excluded) > 0 {
		parts = append(parts, "not in the namespaces "+strings.Join(s.excluded, ", "))
	}
	if len(parts) == 0 {
		return "all"
	}
	return "those " + strings.Join(parts, ", ")
}

// match is what is done with the packets of a pod.
func (s Selection) match(p pod) packets.Pod {
	switch {
	case p.Own:
		return packets.OwnPod
	case slices.Contains(s.excluded, p.Namespace):
		return packets.Excluded
	case len(s.namespaces) > 0 && !slices.Contains(s.namespaces, p.Namespace):
		return packets.Untargeted
	case s.regex != nil && !s.regex.MatchString(p.Name):
		return packets.Untargeted
	}
	return packets.Target
}

// targets are those of pods. When it is not known which there are, a selection
// records nothing.
func (s Selection) targets(pods map[string]pod, known bool) packets.Targets {
	t := packets.Targets{Selective: s.Selective(), Pods: map[netip.Addr]packets.Pod{}}
	wanted, excluded := false, false
	host := map[netip.Addr]bool{}
	for _, p := range pods {
		what := s.match(p)
		for _, a := range p.Host {
			host[a] = true
		}
		if p.HostNetwork {
			wanted = wanted || what == packets.Target
			excluded = excluded || what == packets.Excluded
			continue
		}
		for _, a := range p.Addresses {
			// Two pods have one address while the first is about to end: then
			// what records less.
			if old, ok := t.Pods[a]; !ok || strictness[what] > strictness[old] {
				t.Pods[a] = what
			}
		}
	}
	t.NodeAddresses = sortedAddrs(host)
	t.Node = !t.Selective || known && !excluded && (wanted || !s.positive())
	return t
}

// strictness orders what is done with packets by how little is recorded.
var strictness = map[packets.Pod]int{packets.Target: 0, packets.Untargeted: 1, packets.Excluded: 2, packets.OwnPod: 3}
