package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestStrangeAnswers has something else answer in the place of the hub, and of
// the store that grants lead to. Nothing of it is an empty list, or success.
func TestStrangeAnswers(t *testing.T) {
	const page = "<!DOCTYPE html><title>Login</title>"
	for _, lie := range []struct {
		name, media, body string
		status            int
	}{
		{"page", "text/html; charset=utf-8", page, 200},
		{"page without type", "", page, 200},
		{"page, 404", "text/html", page, 404},
		{"page, 412", "text/html", page, 412},
		{"page, 502", "text/html", page, 502},
		{"created page", "text/html", page, 201},
		{"empty", "", "", 200},
		{"null", "application/json", "null", 200},
		{"another's object", "application/json", `{"error":"unauthorized"}`, 200},
		{"another's list", "application/json", `[{"error":"unauthorized"}]`, 200},
		{"no member", "application/json", `{"id":null,"scanned":null,"placements":null,"public_key":null,"sent":null}`, 200},
		{"redirect", "text/html", page, 302},
		{"empty redirect", "", "", 308},
		{"S3 error", "application/xml", "<Error><Code>InternalError</Code></Error>", 200},
	} {
		t.Run(lie.name, func(t *testing.T) {
			c := testClient(t, func(*http.Request) (*http.Response, error) {
				resp := answer(lie.status, lie.body)
				resp.Header.Set("Content-Type", lie.media)
				if lie.status/100 == 3 {
					resp.Header.Set("Location", "https://login.example/in?secret")
				}
				return resp, nil
			})
			ctx := t.Context()
			errs := map[string]error{"Delete": c.Delete(ctx, "x"), "Complete": c.Complete(ctx, "s", "n", CompleteRequest{}), "Progress": c.Progress(ctx, "s", Progress{Node: "n"})}
			_, errs["Hub"] = c.Hub(ctx)
			_, errs["Nodes"] = c.Nodes(ctx)
			_, errs["Snapshots"] = c.Snapshots(ctx)
			_, errs["Snapshot"] = c.Snapshot(ctx, "x")
			_, errs["Create"] = c.Create(ctx, CreateRequest{})
			_, errs["Sweep"] = c.Sweep(ctx, false)
			_, errs["Poll"] = c.Poll(ctx, "n", PollRequest{})
			_, errs["Grants"] = c.Grants(ctx, "s", "n", GrantRequest{})
			if strings.Contains(lie.name, "page") && lie.media != "" {
				_, errs["Pcap"] = c.Pcap(ctx, "x", PcapQuery{})
			}
			for call, err := range errs {
				if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "--hub") || strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: %v", call, err)
				}
			}
			for _, u := range []string{"/grants/chunks/x", "https://store.example/x"} {
				err := c.Upload(ctx, &store.Grant{URL: u}, strings.NewReader("x"), 1)
				if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
					t.Errorf("upload to %s: %v", u, err)
				}
			}
		})
	}
}

// TestUploadToStores uploads to real services, twice: their answers are success,
// and that somebody was first.
func TestUploadToStores(t *testing.T) {
	for name, opt := range map[string]store.S3Options{"MinIO": storetest.MinIO(t), "versitygw": storetest.VersityGW(t)} {
		t.Run(name, func(t *testing.T) {
			s, err := store.NewS3(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewClient("")
			if err != nil {
				t.Fatal(err)
			}
			body := store.Bytes([]byte("some bytes"))
			g, err := s.Grant(t.Context(), "chunks/x", body.Size, body.SHA256, time.Now().Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []bool{false, true} {
				if taken, err := c.upload(t.Context(), &g, body, body.Size); err != nil || taken != want {
					t.Errorf("taken: %v, want %v; %v", taken, want, err)
				}
			}
			if got := storetest.Read(t, s, "chunks/x"); string(got) != "some bytes" {
				t.Errorf("stored %q", got)
			}
		})
	}
}
