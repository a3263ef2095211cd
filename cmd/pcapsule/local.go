package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"pcapsule/internal/api"
)

// A hub on this machine is found, and lets its user in, by a file that it writes:
// a localHub. A port proves nothing, since any program can listen there.
//
// The file is believed when it belongs to root or to the reader, in a folder of
// one of them that others cannot write; it counts for as long as the hub, which
// holds a lock on it, runs.
type localHub struct {
	URL         string `json:"url"`             // where it answers
	Certificate string `json:"certificate"`     // PEM, for api.LocalName
	Token       string `json:"token,omitempty"` // none of a hub that asks nobody
	PublicKey   string `json:"public_key"`      // a line of allowed_signers
	DataDir     string `json:"data_dir"`
	PID         int    `json:"pid"`

	file string
}

func (l *localHub) String() string {
	return fmt.Sprintf("%s (process %d, data in %s)", l.URL, l.PID, l.DataDir)
}

// client is what makes a client let in by the hub.
func (l *localHub) client() *api.Local {
	return &api.Local{Certificate: []byte(l.Certificate), Token: l.Token}
}

// runtimeEnv names a folder in place of those below.
const runtimeEnv = "PCAPSULE_RUNTIME_DIR"

// rootRuntimeDir is where root's hubs write their files, for root and for --for.
func rootRuntimeDir() string {
	if runtime.GOOS == "linux" {
		return "/run/pcapsule"
	}
	return "/var/run/pcapsule"
}

// runtimeDirs are the folders where the user's hubs write their files: the first
// that can be made has them.
func runtimeDirs() []string {
	if dir := os.Getenv(runtimeEnv); dir != "" {
		return []string{dir}
	}
	if os.Geteuid() == 0 {
		return []string{rootRuntimeDir()}
	}
	var dirs []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs = append(dirs, filepath.Join(dir, "pcapsule"))
	}
	if st, err := os.Lstat(userRuntimeDir()); err == nil && st.IsDir() {
		dirs = append(dirs, filepath.Join(userRuntimeDir(), "pcapsule"))
	}
	return append(dirs, filepath.Join(defaultDataDir(), "run"))
}

func userRuntimeDir() string { return "/run/user/" + strconv.Itoa(os.Geteuid()) }

// localHubs are the hubs that run on this machine and whose files the user may
// believe.
func localHubs() []*localHub {
	dirs := runtimeDirs()
	if os.Getenv(runtimeEnv) == "" {
		dirs = append(dirs, rootRuntimeDir()) // where root gives a hub to others
	}
	var hubs []*localHub
	seen := map[string]bool{}
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		hubs = append(hubs, hubsIn(dir, os.Geteuid())...)
	}
	return hubs
}

// hubsIn reads the files in dir that belong to root or to uid.
func hubsIn(dir string, uid int) (hubs []*localHub) {
	if checkFolder(dir, uid) != nil {
		return nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "hub-*.json"))
	if err != nil {
		return nil
	}
	for _, name := range names {
		if l, err := readLocalHub(name, uid); err == nil {
			hubs = append(hubs, l)
		}
	}
	return hubs
}

// maxLocalHub is more than any such file has, in bytes.
const maxLocalHub = 64 << 10

var errNotRunning = errors.New("the hub of this file does not run any more")

func readLocalHub(name string, uid int) (*localHub, error) {
	f, err := openNoLink(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkOwner(st, uid); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if tryLock(f) == nil {
		return nil, errNotRunning
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLocalHub))
	if err != nil {
		return nil, err
	}
	l := &localHub{file: name}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

// localHubAt is the hub on this machine that answers at a URL, or nil when no file
// tells of one. Root believes the files of other users, too, of a hub that it names.
func localHubAt(base string) *localHub {
	hubs := localHubs()
	if os.Geteuid() == 0 && os.Getenv(runtimeEnv) == "" {
		dirs, _ := filepath.Glob("/run/user/*/pcapsule")
		for _, dir := range append(dirs, rootRuntimeDir(), filepath.Join(defaultDataDir(), "run")) {
			if uid, ok := ownerOf(dir); ok && uid != 0 {
				hubs = append(hubs, hubsIn(dir, uid)...)
			}
		}
	}
	i := slices.IndexFunc(hubs, func(l *localHub) bool { return sameAddress(l.URL, base) })
	if i < 0 {
		return nil
	}
	return hubs[i]
}

// sameAddress tells whether two URLs are of one port of this machine.
func sameAddress(a, b string) bool {
	addr := func(s string) (string, bool) {
		u, err := url.Parse(hubOrigin(s))
		if err != nil {
			return "", false
		}
		ip, err := netip.ParseAddr(u.Hostname())
		return u.Host, err == nil && ip.IsLoopback()
	}
	x, ok := addr(a)
	y, ok2 := addr(b)
	return ok && ok2 && x == y
}

// A localFile is the file of a hub that runs in this process, for one user.
type localFile struct{ f *os.File }

// writeLocalHub writes the hub's file into dir, for the owner with that uid and gid,
// and holds it until close.
func writeLocalHub(dir string, l localHub, uid, gid int) (*localFile, error) {
	f, err := os.CreateTemp(dir, ".hub-*") // mode 0600
	if err != nil {
		return nil, err
	}
	file := &localFile{f}
	if err := file.write(l, uid, gid); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return file, nil
}

func (file *localFile) write(l localHub, uid, gid int) error {
	if err := tryLock(file.f); err != nil {
		return err
	}
	if err := writeJSON(file.f, l); err != nil {
		return err
	}
	if uid != os.Geteuid() {
		if err := file.f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return os.Rename(file.f.Name(), file.name())
}

func (file *localFile) name() string {
	dir, base := filepath.Split(file.f.Name())
	return filepath.Join(dir, base[1:]+".json")
}

// close removes the file.
func (file *localFile) close() {
	os.Remove(file.name())
	file.f.Close()
}

// makeRuntimeDir makes the folder for the files of the user's hubs, and removes
// from it what hubs left that were killed. Root's hub, and one that was told a
// folder, has that folder or does not start, since no command looks elsewhere. A
// service without a home has its folder where systemd says, or with its data; found
// tells whether commands look there.
func makeRuntimeDir(dataDir string) (dir string, found bool, err error) {
	dirs := runtimeDirs()
	looked := append(slices.Clone(dirs), rootRuntimeDir())
	if os.Getenv(runtimeEnv) == "" && os.Geteuid() != 0 {
		if dir := os.Getenv("RUNTIME_DIRECTORY"); filepath.IsAbs(dir) {
			dirs = append([]string{dir}, dirs...)
		}
		dirs = append(dirs, filepath.Join(dataDir, "run"))
	}
	for _, dir = range dirs {
		if err = makeFolder(dir); err == nil {
			removeStale(dir)
			return dir, slices.Contains(looked, dir), nil
		}
	}
	return "", false, fmt.Errorf("no folder for the file by which this machine's users find the hub: %w: remove or mend that, unless another service uses it, or name another folder with %s, for the hub and for its commands", err, runtimeEnv)
}

// makeFolder makes a folder for hubs' files, unless there is a good one.
func makeFolder(dir string) error {
	err := checkFolder(dir, os.Geteuid())
	if errors.Is(err, fs.ErrNotExist) {
		mode := fs.FileMode(0o700)
		if os.Geteuid() == 0 {
			mode = 0o755 // those it is for read their own file there
		}
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
		err = checkFolder(dir, os.Geteuid())
	}
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".hub-*") // another's folder is good too, and may take no file
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}

func removeStale(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "hub-*.json"))
	for _, name := range names {
		f, err := openNoLink(name)
		if err != nil {
			continue
		}
		if tryLock(f) == nil {
			os.Remove(name)
		}
		f.Close()
	}
}
