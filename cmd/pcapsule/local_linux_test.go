package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapsule/internal/api"
)

// A localSite is a hub on loopback and the users of its machine.
type localSite struct {
	*machine
	url string
	hub *daemon
}

// Users of the tests: they need no entry in /etc/passwd, but for --for.
const (
	nobody  = 65534 // --for nobody
	mallory = 54321
)

func newLocalSite(t *testing.T, args ...string) *localSite {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be other users")
	}
	s := &localSite{machine: newMachine(t)}
	// Others have to reach the program and the files.
	for dir := s.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + addr
	s.startHub(args...)
	return s
}

func (s *localSite) startHub(args ...string) {
	s.t.Helper()
	s.hub = s.start(append([]string{"hub", "--listen", strings.TrimPrefix(s.url, "http://"), "--data-dir", "data"}, args...)...)
	s.t.Cleanup(func() { s.hub.cmd.Process.Kill() })
	for range 200 {
		resp, err := http.Get(s.url + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatal("the hub does not get ready")
}

// as runs a command as a user, without --hub and PCAPSULE_HUB unless args have it.
func (s *localSite) as(uid uint32, args ...string) (code int, out string) {
	s.t.Helper()
	cmd := s.command(context.Background(), args...)
	home := filepath.Join(s.dir, fmt.Sprint("home-", uid))
	if err := os.MkdirAll(home, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chown(home, int(uid), int(uid)); err != nil {
		s.t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "PCAPSULE_HUB=", "XDG_CONFIG_HOME="+home, "HOME="+home, "TMPDIR="+home, "KUBECONFIG="+home+"/none")
	cmd.Dir = home
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	b, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(b)
}

func (s *localSite) wants(uid uint32, code int, says string, args ...string) {
	s.t.Helper()
	got, out := s.as(uid, args...)
	if got != code || !strings.Contains(out, says) {
		s.t.Errorf("as %d, %v: exit code %d, want %d and %q:\n%s", uid, args, got, code, says, out)
	}
}

// files are those by which the hub is found.
func (s *localSite) files() []string {
	names, err := filepath.Glob(filepath.Join(s.runtimeDir(), "hub-*.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// TestLocalUsers: a hub on loopback is for who started it, root, and --for.
func TestLocalUsers(t *testing.T) {
	s := newLocalSite(t, "--for", "nobody")
	if n := len(s.files()); n != 2 {
		t.Fatalf("%d files, want root's and nobody's", n)
	}
	for _, name := range s.files() {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	file := filepath.Join(s.dir, "x.pcap")
	if err := os.WriteFile(file, capture(1, 10, func(i int) int64 { return int64(i) }), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{0, nobody} {
		name := fmt.Sprint("by-", uid)
		s.wants(uid, exitOK, "completed", "snapshot", "import", name, file)
		s.wants(uid, exitOK, "wrote", "snapshot", "pcap", name, "-w", "x.pcapng")
		s.wants(uid, exitOK, name, "snapshot", "list", "--hub", s.url)
	}
	s.wants(mallory, exitFailed, "no hub runs on this machine that is for you", "snapshot", "list")
	s.wants(mallory, exitFailed, "this hub is for root and nobody", "snapshot", "list", "--hub", s.url)

	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/metrics": 401, "/api/v1/openapi.json": 401, "/api/v1/hub": 401, "/api/v1/nodes": 401,
		"/api/v1/snapshots": 401, "/api/v1/snapshots/by-0": 401, "/api/v1/snapshots/by-0/pcap": 401, "/api/v1/snapshots/by-0/archive": 401,
		"/api/v1/objects/chunks/00/x": 401, "/nothing": 401,
	} {
		resp, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s without a token: %d, want %d", path, resp.StatusCode, want)
		}
	}
	// A program may send the token over plain HTTP.
	var l localHub
	b, err := os.ReadFile(s.files()[0])
	if err != nil {
		t.Fatal(err)
	}
	decode(t, string(b), &l)
	req, _ := http.NewRequest(http.MethodGet, s.url+"/api/v1/hub", nil)
	req.Header.Set("Authorization", "Bearer "+l.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("with the token: %s", resp.Status)
	}
	s.hub.end(syscall.SIGTERM)
	if n := len(s.files()); n != 0 {
		t.Errorf("the hub left %d files behind", n)
	}
}

// TestLocalImpostor: a program of another user that takes the hub's port when the
// hub was killed is told nothing and believed nothing.
func TestLocalImpostor(t *testing.T) {
	s := newLocalSite(t)
	s.wants(0, exitOK, "no snapshots yet", "snapshot", "list")
	s.hub.end(syscall.SIGKILL)
	stale := s.files()
	if len(stale) != 1 {
		t.Fatalf("files after a kill: %v", stale)
	}
	s.wants(0, exitFailed, "no hub runs on this machine", "snapshot", "list")

	// Hold the file as its hub did, for a program that has the port: as if the hub
	// lived on with its port taken.
	f, err := os.Open(stale[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := tryLock(f); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	impostor := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		heard <- fmt.Sprint(r.Method, " ", r.URL, r.Header, string(b))
		json.NewEncoder(w).Encode([]api.Snapshot{{ID: "forged", Name: "forged"}})
	})}
	l, err := net.Listen("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	go impostor.Serve(l)
	for _, args := range [][]string{{"snapshot", "list"}, {"snapshot", "list", "--hub", s.url}, {"snapshot", "create", "x", "--last", "1m"}, {"sweep"}} {
		s.wants(0, exitFailed, "is not the hub", args...)
	}
	impostor.Close()
	select {
	case said := <-heard:
		t.Errorf("the impostor was told %s", said)
	default:
	}
	f.Close()

	// The next hub removes what the killed one left.
	s.startHub()
	if now := s.files(); len(now) != 1 || now[0] == stale[0] {
		t.Errorf("files: %v, before %v", now, stale)
	}
	s.wants(0, exitOK, "no snapshots yet", "snapshot", "list")
}

// TestLocalFileOfOthers: a file that another user wrote, or could have, is not read.
func TestLocalFileOfOthers(t *testing.T) {
	s := newLocalSite(t)
	name := s.files()[0]
	for what, spoil := range map[string]func() error{
		"the file is another's":     func() error { return os.Chown(name, mallory, mallory) },
		"others can write the file": func() error { return os.Chmod(name, 0o666) },
		"the folder is another's":   func() error { return os.Chown(s.runtimeDir(), mallory, mallory) },
		"others can write there":    func() error { return os.Chmod(s.runtimeDir(), 0o777) },
		"the file is a link": func() error {
			return os.Rename(name, s.dir+"/elsewhere")
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if what == "the file is a link" {
			if err := os.Symlink(s.dir+"/elsewhere", name); err != nil {
				t.Fatal(err)
			}
		}
		if code, out := s.as(0, "snapshot", "list"); code != exitFailed || !strings.Contains(out, "no hub runs on this machine") {
			t.Errorf("%s: exit code %d\n%s", what, code, out)
		}
		if what == "the file is a link" {
			if err := os.Rename(s.dir+"/elsewhere", name); err != nil {
				t.Fatal(err)
			}
		}
		for path, mode := range map[string]os.FileMode{name: 0o600, s.runtimeDir(): 0o755} {
			if err := os.Chown(path, 0, 0); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		s.wants(0, exitOK, "", "snapshot", "list")
	}
}

// TestFolderOfOthers: a hub of root's does not start where its file would be found
// by nobody, and says whose folder is in the way; another user's takes its next
// folder, and says when commands do not look there.
func TestFolderOfOthers(t *testing.T) {
	s := newLocalSite(t)
	// A hub in a mount namespace with a /run of its own.
	start := func(uid int, script string) (code int, out string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		data := t.TempDir()
		for dir := data; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(data, uid, uid); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(ctx, "sh", "-ec", "mount -t tmpfs tmpfs /run; "+script+"; exec setpriv --reuid $1 --clear-groups $0 hub --listen 127.0.0.1:0 --data-dir data",
			s.bin, strconv.Itoa(uid))
		cmd.Env = append(os.Environ(), runtimeEnv+"=", "RUNTIME_DIRECTORY=", "XDG_RUNTIME_DIR=", "XDG_DATA_HOME="+data+"/none", "XDG_CONFIG_HOME="+data)
		cmd.Dir = data
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			fmt.Fprintln(&said, lines.Text())
			if strings.Contains(lines.Text(), "pcapsule agent --hub") { // it runs
				cmd.Process.Signal(syscall.SIGTERM)
			}
		}
		cmd.Wait()
		return cmd.ProcessState.ExitCode(), said.String()
	}
	for script, want := range map[string]string{
		"mkdir -m 755 /run/pcapsule; chown nobody /run/pcapsule":             "/run/pcapsule: it belongs to another user, nobody (65534)",
		"mkdir -m 755 /run/pcapsule; chown 54321 /run/pcapsule":              "/run/pcapsule: it belongs to another user, 54321",
		"mkdir -m 777 /run/pcapsule":                                         "/run/pcapsule: others can write it (mode 0777)",
		"mkdir /run/else; ln -s else /run/pcapsule":                          "/run/pcapsule is a symbolic link",
		"ln -s nowhere /run/pcapsule":                                        "/run/pcapsule is a symbolic link",
		"touch /run/pcapsule":                                                "/run/pcapsule is no folder",
		"mount -o remount,ro /run":                                           "mkdir /run/pcapsule: read-only file system",
		"mkdir /run/a; chown 54321 /run/a; export " + runtimeEnv + "=/run/a": "/run/a: it belongs to another user, 54321",
	} {
		code, out := start(0, script)
		if code != exitFailed || !strings.Contains(out, want) || !strings.Contains(out, "another folder with "+runtimeEnv) {
			t.Errorf("%s: exit code %d, want %q:\n%s", script, code, want, out)
		}
	}
	if code, out := start(0, "mkdir -m 755 /run/pcapsule"); code != exitOK {
		t.Errorf("a good folder: exit code %d:\n%s", code, out)
	}
	const blocked = "mkdir -m 755 -p /run/user/54321/pcapsule; chown 54321 /run/user/54321"
	if code, out := start(mallory, blocked); code != exitOK || strings.Contains(out, "do not look") {
		t.Errorf("a user whose first folder is root's: exit code %d:\n%s", code, out)
	}
	if code, out := start(mallory, blocked+"; touch none"); code != exitOK || !strings.Contains(out, "data/run, where commands do not look: set "+runtimeEnv) {
		t.Errorf("a user without a folder but the data's: exit code %d:\n%s", code, out)
	}
}

// TestSeveralLocalHubs: none is chosen for the user; one beside a cluster is said.
func TestSeveralLocalHubs(t *testing.T) {
	s := newLocalSite(t)
	one := s.url
	config := filepath.Join(s.dir, "kubeconfig")
	kubeconfig := "apiVersion: v1\nkind: Config\ncurrent-context: far\nclusters: [{name: far, cluster: {server: 'https://127.0.0.1:1'}}]\n" +
		"users: [{name: me, user: {token: abc}}]\ncontexts: [{name: far, context: {cluster: far, user: me}}]\n"
	if err := os.WriteFile(config, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wants(0, exitFailed, "context far does not answer", "snapshot", "list", "--kube-context", "far", "--kubeconfig", config)
	cmd := s.command(t.Context(), "snapshot", "list")
	cmd.Env = append(cmd.Env, "PCAPSULE_HUB=", "KUBECONFIG="+config)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("talking to the hub on this machine at "+one)) || !bytes.Contains(out, []byte("--kube-context")) {
		t.Errorf("beside a cluster: %v\n%s", err, out)
	}

	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + addr
	s.startHub("--data-dir", "two", "--auth", "none")
	code, text := s.as(0, "snapshot", "list")
	if code != exitUsage || !strings.Contains(text, one) || !strings.Contains(text, s.url) {
		t.Errorf("of two hubs: exit code %d\n%s", code, text)
	}
	s.wants(0, exitOK, "no snapshots", "snapshot", "list", "--hub", one)
	s.wants(mallory, exitOK, "no snapshots", "snapshot", "list", "--hub", s.url) // it asks nobody
}
