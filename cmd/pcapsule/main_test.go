package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"pcapsule/internal/pcapng"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pcapsule": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
		},
	})
}

// TestScripts runs the commands as a shell does: testdata/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			config := filepath.Join(e.WorkDir, ".config")
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", config)
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, ".data"))
			e.Setenv("TMPDIR", e.WorkDir)
			e.Setenv(runtimeEnv, filepath.Join(e.WorkDir, ".run"))
			e.Setenv("TZ", "UTC")
			addr, err := freeAddress()
			if err != nil {
				return err
			}
			e.Setenv("LISTEN", addr)
			e.Setenv("PCAPSULE_HUB", "http://"+addr)
			return writeCaptures(e.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bucket":  func(ts *testscript.TestScript, neg bool, args []string) { bucket(t, ts, args) },
			"cluster": clusterSnapshot,
			"exits":   exits,
			"ready":   ready,
			"flip":    flip,
		},
	})
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// bucket SERVER: a new bucket on a real server, for pcapsule and for rclone's
// remote m.
func bucket(t *testing.T, ts *testscript.TestScript, args []string) {
	servers := map[string]func(testing.TB) store.S3Options{"minio": storetest.MinIO, "versitygw": storetest.VersityGW}
	if len(args) != 1 || servers[args[0]] == nil {
		ts.Fatalf("usage: bucket minio|versitygw")
	}
	opt := servers[args[0]](t)
	for k, v := range map[string]string{
		"BUCKET": opt.Bucket, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": opt.Endpoint,
		"AWS_ACCESS_KEY_ID": opt.AccessKey, "AWS_SECRET_ACCESS_KEY": opt.SecretKey,
		"RCLONE_CONFIG_M_TYPE": "s3", "RCLONE_CONFIG_M_PROVIDER": "Minio", "RCLONE_CONFIG_M_ENDPOINT": opt.Endpoint,
		"RCLONE_CONFIG_M_ACCESS_KEY_ID": opt.AccessKey, "RCLONE_CONFIG_M_SECRET_ACCESS_KEY": opt.SecretKey,
	} {
		ts.Setenv(k, v)
	}
}

// exits CODE COMMAND...: the command's exit code is CODE.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		if _, scanErr := fmt.Sscanf(err.Error(), "exit status %d", &got); scanErr != nil {
			ts.Fatalf("%v", err)
		}
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if stderr := ts.ReadFile("stderr"); want == exitFailed || want == exitUsage {
		_, said, _ := strings.Cut("\n"+stderr, "\npcapsule: made a key")
		if said == "" {
			said = stderr
		} else {
			_, said, _ = strings.Cut(said, "\n")
		}
		if lines := strings.Count(said, "\n"); lines != 1 {
			ts.Fatalf("an error is one line, not %d:\n%s", lines, stderr)
		}
	}
}

// ready waits until the hub answers.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	for range 200 {
		resp, err := http.Get(ts.Getenv("PCAPSULE_HUB") + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("the hub did not get ready")
}

// flip GLOB: one bit in the middle of the first file that matches.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("no file matches %s", args[0])
	}
	b, err := os.ReadFile(files[0])
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(files[0], b, 0o600))
}

// writeCaptures makes the capture files that scripts use.
func writeCaptures(dir string) error {
	const ethernet, raw = 1, 101
	eth := capture(ethernet, 100, func(i int) int64 { return int64(i) })
	for name, b := range map[string][]byte{
		"eth.pcap":   eth,
		"raw.pcap":   capture(raw, 10, func(i int) int64 { return int64(i) }),
		"mixed.pcap": capture(ethernet, 1000, func(i int) int64 { return int64(i * 7919 % 1000) }),
		"cut.pcap":   eth[:len(eth)-5],
		"noise.pcap": []byte("this is no capture file\n"),
		"none.pcap":  capture(ethernet, 0, nil),

		"later.pcap":   capture(ethernet, 10, func(i int) int64 { return 86_400_000 + int64(i) }),
		"comma.pcapng": interfaces("Intel(R), 82574L", "eth0"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// capture is a pcap file of n packets, at milliseconds after a point in time.
func capture(linkType uint32, n int, at func(i int) int64) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, 262144)
	b = le.AppendUint32(b, linkType)
	for i := range n {
		ms := at(i)
		b = le.AppendUint32(b, uint32(1_700_000_000+ms/1000))
		b = le.AppendUint32(b, uint32(ms%1000*1e6))
		p := packet(linkType, i)
		b = le.AppendUint32(b, uint32(len(p)))
		b = le.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// interfaces is a pcapng file with a packet of each interface.
func interfaces(names ...string) []byte {
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	for _, name := range names {
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: name})
	}
	for i := range names {
		p := packet(1, i)
		b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: uint32(i), Time: 1_700_000_000_000_000_000, OrigLen: uint32(len(p)), Data: p})
	}
	return b
}

// packet is an IPv4 UDP packet of number i.
func packet(linkType uint32, i int) []byte {
	ip := []byte{0x45, 0, 0, 36, byte(i >> 8), byte(i), 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
		0x30, 0x39, 0, 53, 0, 16, 0, 0, 'n', 'u', 'm', 'b', 'e', 'r', byte(i >> 8), byte(i)}
	if linkType != 1 {
		return ip
	}
	return append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, ip...)
}

// TestPermute: flags may stand anywhere.
func TestPermute(t *testing.T) {
	app := newApp(nil, nil, nil)
	for _, tt := range []struct{ in, want string }{
		{"snapshot create outage --last 5m", "snapshot create --last 5m outage"},
		{"-o json snapshot list", "snapshot list -o json"},
		{"snapshot pcap outage -w -", "snapshot pcap -w - outage"},
		{"snapshot pcap -w out.pcap outage --node a --node=b", "snapshot pcap -w out.pcap --node a --node=b outage"},
		{"snapshot show -- -odd", "snapshot show -- -odd"},
		{"snapshot import n list -o json", "snapshot import -o json n list"},
		{"verify a.tar --trust f", "verify --trust f a.tar"},
		{"--help", "--help"},
		{"snapshot delete a b --hub http://x", "snapshot delete --hub http://x a b"},
	} {
		got := permute(app, append([]string{"pcapsule"}, strings.Fields(tt.in)...))
		if s := strings.Join(got[1:], " "); s != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, s, tt.want)
		}
	}
}

// TestLists: a value of a flag that is repeated holds whatever commas it holds;
// names that have none may come in one value, as environment variables want it.
func TestLists(t *testing.T) {
	t.Setenv("PCAPSULE_HOST", "a.example, b.example")
	for _, tt := range []struct {
		args  string
		names func(*cli.Context) []string
		want  []string
	}{
		{"hub", func(c *cli.Context) []string { return names(c, "host") }, []string{"a.example", "b.example"}},
		{"hub --host c,d --host e", func(c *cli.Context) []string { return names(c, "host") }, []string{"c", "d", "e"}},
		{"up --interface x,y --interface z", func(c *cli.Context) []string { return c.StringSlice("interface") }, []string{"x,y", "z"}},
	} {
		app := newApp(nil, io.Discard, io.Discard)
		var got []string
		eachCommand(app.Commands, func(c *cli.Command) {
			c.Action = func(c *cli.Context) error {
				got = tt.names(c)
				return nil
			}
		})
		if err := app.Run(append([]string{"pcapsule"}, strings.Fields(tt.args)...)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.args, got, tt.want)
		}
	}
}
