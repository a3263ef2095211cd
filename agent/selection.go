package agent

import (
	"fmt"

	"pcapsule/manifest"
)

// selection is what this agent records and leaves out, as manifests have it.
func (a *agent) selection() manifest.Selection {
	s := manifest.Selection{Interfaces: a.cfg.Interfaces}
	s.Excluded = append(s.Excluded,
		"pcapsule's own connections: to its hub, the store and name servers",
		fmt.Sprintf("TCP with the hub (%s)", a.client.Base()))
	for _, addr := range a.cfg.Exclude {
		s.Excluded = append(s.Excluded, fmt.Sprintf("TCP with %s", addr))
	}
	if len(a.cfg.Interfaces) > 0 && a.cfg.NoPromiscuous {
		s.Excluded = append(s.Excluded, "frames for other stations that an interface does not take in by itself (--no-promiscuous)")
	}
	if a.cfg.Kubernetes != nil {
		t := a.cfg.Pods.Manifest()
		s.Targets = &t
		s.Excluded = append(s.Excluded,
			"pcapsule's own connections to the API server, and the pods of its hub",
			"packets of pods on their way through bridges, tunnels and uplinks: recorded where they leave a pod or the node, and where they arrive")
		if a.cfg.Pods.Selective() {
			s.Excluded = append(s.Excluded, "pods that are no target, and new ones until the API server has told of them")
		}
	}
	return s.Fit()
}
