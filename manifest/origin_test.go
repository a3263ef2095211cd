package manifest

import (
	"strings"
	"testing"

	"pcapsule/chunker"
)

func TestOrigins(t *testing.T) {
	eth, lo := chunker.Interface{Name: "eth0", LinkType: 1}, chunker.Interface{Name: "lo", LinkType: 1}
	for name, tt := range map[string]struct {
		list []Origin
		good bool
	}{
		"none":         {nil, true},
		"several":      {[]Origin{{Interface: eth}, {Interface: eth, Application: "a"}, {Interface: eth, Filter: "tcp"}, {Interface: lo}}, true},
		"twice":        {[]Origin{{Interface: eth, Filter: "tcp"}, {Interface: eth, Filter: "tcp"}}, false},
		"out of order": {[]Origin{{Interface: lo}, {Interface: eth}}, false},
		"by filter":    {[]Origin{{Interface: eth, Filter: "udp"}, {Interface: eth, Filter: "tcp"}}, false},
		"unprintable":  {[]Origin{{Interface: eth, CaptureComment: "\x1b[2J"}}, false},
		"too long":     {[]Origin{{Interface: eth, Filter: strings.Repeat("x", MaxText+1)}}, false},
		"its name":     {[]Origin{{Interface: chunker.Interface{Name: "\n"}}}, false},
	} {
		n := Node{Name: "n", Status: Completed, Origins: tt.list}
		if err := n.Validate(); (err == nil) != tt.good {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
