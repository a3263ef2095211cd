package hub

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"pcapsule/internal/api"
)

// A snapshot without records of Kubernetes is exported as ever, and cannot be
// asked by names.
func TestPcapByNames(t *testing.T) {
	s, _, _ := stocked(t, 1)
	c := s.client()
	read := func(q api.PcapQuery) ([]byte, error) {
		out, err := c.Pcap(t.Context(), "outage", q)
		if err != nil {
			return nil, err
		}
		return readAll(t, out), nil
	}
	all, err := read(api.PcapQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := read(api.PcapQuery{Plain: true}); err != nil || !bytes.Equal(all, plain) {
		t.Errorf("plain has other bytes: %v", err)
	}
	for _, q := range []api.PcapQuery{
		{Pods: []string{"shop/web"}}, {Namespaces: []string{"shop", "other"}}, {Services: []string{"shop/db"}, Plain: true},
	} {
		_, err := read(q)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != http.StatusUnprocessableEntity || e.Code != api.CodeNotRecorded || !strings.Contains(e.Message, "no records of Kubernetes") {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
