//go:build e2e && linux

package e2e

import (
	"strings"
	"testing"
)

// wantPackets requires that a capture has packets like these.
func wantPackets(t *testing.T, file, what, filter string) {
	t.Helper()
	if n := len(tshark(t, file, "-Y", filter)); n == 0 {
		t.Errorf("no packets of %s: none matches %s", what, filter)
	}
}

// wantNone requires that a capture has no packet like these.
func wantNone(t *testing.T, file, what, filter string) {
	t.Helper()
	if rows := tshark(t, file, "-Y", filter); len(rows) > 0 {
		t.Errorf("%d packets of %s, such as: %s", len(rows), what, rows[0])
	}
}

// wantTwice requires that each request for uri was recorded twice, on two
// interfaces: where it left and where it arrived. Those at the edges of the window
// may be there once.
func wantTwice(t *testing.T, file, uri string) {
	t.Helper()
	seen := map[string][]string{}
	rows := tshark(t, file, "-Y", "http.request.uri contains "+strings.TrimPrefix(uri, "/"), "-T", "fields",
		"-e", "ip.src", "-e", "tcp.srcport", "-e", "tcp.seq_raw", "-e", "frame.interface_name")
	for _, row := range rows {
		fields := strings.Split(row, "\t")
		key := strings.Join(fields[:3], " ")
		seen[key] = append(seen[key], fields[3])
	}
	if len(seen) == 0 {
		t.Errorf("no request for %s", uri)
	}
	odd := 0
	for key, interfaces := range seen {
		if len(interfaces) == 1 {
			odd++
		} else if len(interfaces) != 2 || interfaces[0] == interfaces[1] {
			t.Errorf("request %s for %s was recorded on %v, want two interfaces", key, uri, interfaces)
		}
	}
	if odd > 2 {
		t.Errorf("%d of %d requests for %s were recorded once, want twice", odd, len(seen), uri)
	}
}

// hasName tells whether tshark's table of hosts gives an address a name with a
// pod's name in it.
func hasName(table, addr, name string) bool {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == addr && strings.Contains(fields[1], name) {
			return true
		}
	}
	return false
}
