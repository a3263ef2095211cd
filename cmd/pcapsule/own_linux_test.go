package main

import (
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/capfile"
	"pcapsule/store/storetest"
)

// TestOwnTraffic: up records all interfaces, but not what it uploads, nor what its
// clients export, which would be in the next snapshot again.
func TestOwnTraffic(t *testing.T) {
	buildMinIO(t)
	if os.Getuid() != 0 {
		t.Skip("needs eBPF, and so root")
	}
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	opt := storetest.MinIO(t)
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": opt.Endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": opt.AccessKey, "AWS_SECRET_ACCESS_KEY": opt.SecretKey,
	} {
		t.Setenv(k, v)
	}
	u, err := url.Parse(opt.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t)
	d := m.start("up", "--data-dir", "data", "--node", "n", "--ring-size", "64MiB", "--store", "s3://"+opt.Bucket+"/own")
	m.ready(d)
	from := time.Now()
	for range 2000 {
		s.send(t)
	}
	m.run(0, "snapshot", "create", "first", "--from", from.Format(time.RFC3339Nano))
	m.run(0, "snapshot", "pcap", "first", "-w", "first.pcapng")
	m.run(0, "snapshot", "create", "second", "--from", from.Format(time.RFC3339Nano))
	m.run(0, "snapshot", "pcap", "second", "-w", "second.pcapng")
	if n := len(m.numbers("second.pcapng")); n != 2000 {
		t.Errorf("%d packets of the sender are recorded, want 2000", n)
	}
	_, hub, _ := strings.Cut(strings.TrimPrefix(testHub, "http://"), ":")
	for _, port := range []string{u.Port(), hub} {
		if n := m.tcp("second.pcapng", port); n > 0 {
			t.Errorf("%d packets of own connections to port %s are recorded", n, port)
		}
	}
	if err := d.end(os.Interrupt); err != nil {
		t.Errorf("up ended with %v\n%s", err, d.out.String())
	}
}

// tcp counts the TCP packets over IPv4 from or to a port.
func (m *machine) tcp(name, port string) (count int) {
	m.t.Helper()
	want, err := strconv.Atoi(port)
	if err != nil {
		m.t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(m.dir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		m.t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if b := p.Data; len(b) >= 38 && b[12] == 8 && b[13] == 0 && b[23] == 6 {
			if int(b[34])<<8|int(b[35]) == want || int(b[36])<<8|int(b[37]) == want {
				count++
			}
		}
	}
}
