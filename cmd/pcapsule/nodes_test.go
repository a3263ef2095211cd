package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/api"
)

// TestWriteNodes shows what is wrong with nodes before what is right.
func TestWriteNodes(t *testing.T) {
	now := time.Date(2026, 3, 1, 14, 32, 0, 0, time.UTC)
	link := func(name, state string) api.Interface {
		return api.Interface{Interface: chunker.Interface{Name: name, LinkType: 1}, State: state}
	}
	var many []api.Interface
	for _, name := range strings.Fields("a b c d e f g h i") {
		many = append(many, link(name, api.InterfaceUp))
	}
	var b bytes.Buffer
	err := writeNodes(&b, []api.Node{
		{
			Name: "web-1", Live: true, LastSeen: now,
			Ring:       api.Ring{Limit: 1 << 30, Used: 1 << 29, Oldest: now.Add(-3 * time.Hour), Drops: 1234},
			Interfaces: []api.Interface{link("eth0", api.InterfaceUp), link("eth1", api.InterfaceDown), link("v0", api.InterfaceGone)},
			Warnings:   []string{"interface v0 is gone\x1b[2J"},
		},
		{Name: "web-2", LastSeen: now.Add(-time.Hour), Interfaces: append(many, link("z", api.InterfaceDown))},
		{Name: "web-3", Live: true, LastSeen: now, Interfaces: []api.Interface{link("old", "")}},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"(3h0m)", "512 MiB of 1.0 GiB", "1,234", "v0 (gone), eth1 (down), eth0\n", "silent", "z (down), a, b, c, d, e, f, g, and 2 more\n",
		"old\n", "\nnode web-1: interface v0 is gone",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("a terminal is told what to do:\n%q", got)
	}
}
