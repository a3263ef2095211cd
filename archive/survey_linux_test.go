package archive

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pcapsule/manifest"
	"pcapsule/store"
)

// folderArchive is an archive in a folder with snapshot 1, which lives, and what
// is left of snapshot 0 for a sweep.
func folderArchive(t *testing.T) (dir string, a *Archive) {
	t.Helper()
	dir = t.TempDir()
	f, err := store.NewFolder(dir, store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	a = New(f)
	putSnapshot(t, a, 0, "old", snapshotOptions{})
	putSnapshot(t, a, 1, "new", snapshotOptions{})
	if err := a.Delete(t.Context(), testID(0), "test"); err != nil {
		t.Fatal(err)
	}
	return dir, a
}

// paths lists files and links below dir, but for those that no object can be.
func paths(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSurveyAgrees puts something that is no object where the existence of
// snapshots is decided, and asks every command what there is: each names it, none
// says that there is nothing, and a sweep deletes nothing.
func TestSurveyAgrees(t *testing.T) {
	id := testID(1)
	snapshot, other := "snapshots/"+id, t.TempDir()
	move := func(from, to string) func(string) error {
		return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
	}
	link := func(to, at string) func(string) error {
		return func(dir string) error { return os.Symlink(strings.ReplaceAll(to, "DIR", dir), filepath.Join(dir, at)) }
	}
	gone := func(at string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, at)) }
	}
	file := func(at string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, at), []byte("?"), 0o600) }
	}
	folder := func(at string) func(string) error {
		return func(dir string) error { return os.MkdirAll(filepath.Join(dir, at), 0o700) }
	}
	copied := func(from, to string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, from))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, to), b, 0o600)
		}
	}
	old := "snapshots/" + testID(0)
	type steps []func(dir string) error
	for _, c := range []struct {
		name  string
		do    steps
		lives bool // snapshot 1 is there, and whole, for all who read
		lists bool // List answers
		loads bool // Load fails otherwise than by ErrNotFound, where it does not live
		clean bool // Verify finds no problem
	}{
		{"manifest behind a link inside", steps{move(snapshot+"/manifest.json", "m"), link("../../m", snapshot+"/manifest.json")}, false, true, true, false},
		{"manifest behind an absolute link", steps{move(snapshot+"/manifest.json", "m"), link("DIR/m", snapshot+"/manifest.json")}, false, true, true, false},
		{"dangling link for a manifest", steps{gone(snapshot + "/manifest.json"), link("nowhere", snapshot+"/manifest.json")}, false, true, true, false},
		{"link loop for a manifest", steps{gone(snapshot + "/manifest.json"), link("manifest.json", snapshot+"/manifest.json")}, false, true, true, false},
		{"pipe for a manifest", steps{gone(snapshot + "/manifest.json"), func(dir string) error { return unix.Mkfifo(filepath.Join(dir, snapshot, "manifest.json"), 0o600) }}, false, true, true, false},
		{"empty folder for a manifest", steps{gone(snapshot + "/manifest.json"), folder(snapshot + "/manifest.json")}, false, true, true, false},
		{"folder for a manifest", steps{move(snapshot+"/manifest.json", "m"), folder(snapshot + "/manifest.json"), move("m", snapshot+"/manifest.json/manifest.json")}, false, true, true, false},
		{"manifest in capitals", steps{move(snapshot+"/manifest.json", snapshot+"/MANIFEST.JSON")}, false, true, true, false},
		{"manifest gone", steps{gone(snapshot + "/manifest.json")}, false, true, true, false},
		{"manifest of another snapshot", steps{copied(old+"/manifest.json", snapshot+"/manifest.json")}, false, true, true, false},
		{"all files of another snapshot", steps{
			copied(old+"/manifest.json", snapshot+"/manifest.json"), copied(old+"/manifest.json.sig", snapshot+"/manifest.json.sig"),
		}, false, true, true, false},
		{"signature of another snapshot", steps{copied(old+"/manifest.json.sig", snapshot+"/manifest.json.sig")}, false, true, true, false},
		{"signature gone", steps{gone(snapshot + "/manifest.json.sig")}, false, true, true, false},
		{"files of a copy under way", steps{
			move(snapshot+"/manifest.json", snapshot+"/manifest.json.1a2b.partial"), gone(snapshot + "/manifest.json.sig"), gone(snapshot + "/allowed_signers"),
		}, false, true, true, false},
		{"hidden files of a copy under way", steps{
			move(snapshot+"/manifest.json", snapshot+"/.manifest.json.X1y2"), gone(snapshot + "/manifest.json.sig"), gone(snapshot + "/allowed_signers"),
		}, false, true, true, false},
		{"folder of a snapshot whose disk is not there", steps{gone(snapshot), folder(snapshot)}, false, true, true, false},
		{"all snapshots in other letters", steps{move("snapshots", "Snapshots")}, false, false, true, false},
		{"tombstones in other letters", steps{move("deleted", "DELETED")}, true, false, true, false},
		{"snapshot in lost+found", steps{folder("snapshots/lost+found"), move(snapshot, "snapshots/lost+found/"+id)}, false, true, false, false},
		{"snapshot behind a link inside", steps{move(snapshot, "s"), link("../s", snapshot)}, false, true, true, false},
		{"snapshot behind a link outside", steps{gone(snapshot), link(other, snapshot)}, false, true, true, false},
		{"file for a snapshot", steps{gone(snapshot), file(snapshot)}, false, true, true, false},
		{"all snapshots behind a link", steps{move("snapshots", "s"), link("s", "snapshots")}, false, false, true, false},
		{"file for all snapshots", steps{gone("snapshots"), file("snapshots")}, false, false, true, false},
		{"link for a tombstone", steps{link("nowhere", "deleted/"+id)}, false, true, true, false},
		{"pipe for a tombstone", steps{func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "deleted", id), 0o600) }}, false, true, true, false},
		{"empty folder for a tombstone", steps{folder("deleted/" + id)}, false, true, true, false},
		{"folder for a tombstone", steps{folder("deleted/" + id), file("deleted/" + id + "/x")}, false, true, true, false},
		{"inventories behind a link", steps{move("inventories", "i"), link("i", "inventories")}, true, true, true, false},
		{"chunks on another disk", steps{move("chunks", "c"), link("c", "chunks")}, true, true, true, false},
		{"chunks in part behind a link", steps{folder("c"), link("../c", "chunks/c0")}, true, true, true, false},
		{"link for an intent", steps{folder("intents"), link("nowhere", "intents/"+testID(5))}, true, true, true, false},
		{"folder for an intent", steps{folder("intents/" + testID(5)), file("intents/" + testID(5) + "/x")}, true, true, true, false},
		{"link for all intents", steps{link(other, "intents")}, true, true, true, false},
		{"copy of an intent", steps{folder("intents"), file("intents/" + testID(5) + " (copy)")}, true, true, true, false},
		{"link for a condemned list", steps{folder("gc"), link("nowhere", manifest.CondemnedPath(1))}, true, true, true, false},
		{"folder for a condemned list", steps{folder(manifest.CondemnedPath(1)), file(manifest.CondemnedPath(1) + "/x")}, true, true, true, false},
		{"snapshot under a name that no key can have", steps{folder("snapshots/" + testID(5) + " (copy)"), file("snapshots/" + testID(5) + " (copy)/manifest.json")}, true, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, a := folderArchive(t)
			for _, do := range c.do {
				if err := do(dir); err != nil {
					t.Fatal(err)
				}
			}
			before := paths(t, dir)
			a = New(a.Store())
			list, err := a.List(t.Context())
			switch {
			case (err == nil) != c.lists:
				t.Errorf("List: %v", err)
			case err == nil && (len(list) != 1 && c.loads || len(list) > 0 && list[0].ID != id || len(list) > 0 && (list[0].Err == nil) != c.lives):
				t.Errorf("List: %+v", list)
			}
			_, err = New(a.Store()).Load(t.Context(), id)
			if (err == nil) != c.lives || c.loads && c.lists && errors.Is(err, ErrNotFound) {
				t.Errorf("Load: %v", err)
			}
			r, err := New(a.Store()).Verify(t.Context(), VerifyOptions{Trust: testTrust()})
			if clean := err == nil && r.OK(); clean != c.clean {
				t.Errorf("Verify: %+v, %v", r, err)
			}
			report, err := New(a.Store()).Sweep(t.Context(), at(epoch))
			if err == nil || report.Deleted != 0 {
				t.Errorf("Sweep: %+v, %v", report, err)
			}
			t.Log(err)
			if diff := cmp.Diff(before, paths(t, dir)); diff != "" {
				t.Errorf("something has changed: %s", diff)
			}
		})
	}
}

// TestSweepWithoutTrace: content of which no snapshot and no session tells is not
// swept, for they are lost, and it may be theirs.
func TestSweepWithoutTrace(t *testing.T) {
	for name, lose := range map[string]func(dir string) error{
		"a disk of snapshots that is not mounted": func(dir string) error {
			snapshots := filepath.Join(dir, "snapshots")
			return errors.Join(os.RemoveAll(snapshots), os.Mkdir(snapshots, 0o700))
		},
		"snapshots under another name": func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "deleted")), os.Rename(filepath.Join(dir, "snapshots"), filepath.Join(dir, "snapshots (1)")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, a := folderArchive(t)
			if err := lose(dir); err != nil {
				t.Fatal(err)
			}
			before := paths(t, dir)
			report, err := New(a.Store()).Sweep(t.Context(), at(epoch))
			if !errors.Is(err, ErrDamaged) || report.Deleted != 0 {
				t.Errorf("Sweep: %+v, %v", report, err)
			}
			if diff := cmp.Diff(before, paths(t, dir)); diff != "" {
				t.Errorf("something has changed: %s", diff)
			}
		})
	}
}

// TestStraysAreNamed: what may be a snapshot and is in no list is said beside the
// list, and is a problem for Verify, once each; the rest is verified.
func TestStraysAreNamed(t *testing.T) {
	id := testID(1)
	lower, mixed := strings.ToLower(id), strings.Replace(id, "T", "t", 1)
	for _, c := range []struct {
		name   string
		to     string // where snapshot 1 is moved
		at     string // what is told
		strays int
	}{
		{"lower case", "snapshots/" + lower, "snapshots/" + lower + "/manifest.json", 1},
		{"mixed case", "snapshots/" + mixed, "snapshots/" + mixed + "/manifest.json", 1},
		{"numbered", "snapshots/" + id + " (1)", "snapshots/" + id + " (1)/manifest.json", 1},
		{"deeper", "snapshots/old/" + id, "snapshots/old/" + id + "/manifest.json", 1},
		{"pipe for a tombstone", "", "deleted/" + id, 0},
		{"empty folder for a tombstone", "", "deleted/" + id, 0},
		{"full folder for a tombstone", "", "deleted/" + id, 0},
		{"link for a tombstone", "", "deleted/" + id, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, a := folderArchive(t)
			putSnapshot(t, a, 2, "whole", snapshotOptions{})
			at := filepath.Join(dir, "deleted", id)
			var err error
			switch {
			case c.to != "":
				to := filepath.Join(dir, c.to)
				err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.Rename(filepath.Join(dir, "snapshots", id), to))
			case strings.HasPrefix(c.name, "pipe"):
				err = unix.Mkfifo(at, 0o600)
			case strings.HasPrefix(c.name, "link"):
				err = os.Symlink("nowhere", at)
			default:
				err = os.Mkdir(at, 0o700)
			}
			if strings.HasPrefix(c.name, "full") {
				err = errors.Join(err, os.WriteFile(filepath.Join(at, "a"), nil, 0o600), os.WriteFile(filepath.Join(at, "b"), nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			list, strays, err := New(a.Store()).ListAll(t.Context())
			if err != nil || len(strays) != c.strays || len(list) != 2-c.strays {
				t.Fatalf("List: %+v and %v, error %v", list, strays, err)
			}
			for _, s := range list {
				if (s.Err == nil) != (s.ID == testID(2)) {
					t.Errorf("List: snapshot %s: %v", s.ID, s.Err)
				}
			}
			for _, err := range strays {
				if !strings.Contains(err.Error(), c.at) {
					t.Errorf("%q does not say where", err)
				}
			}
			r, err := New(a.Store()).Verify(t.Context(), VerifyOptions{Trust: testTrust()})
			if err != nil || len(r.Problems) != 1 || r.Problems[0].Object != c.at {
				t.Fatalf("Verify: %+v, %v", r, err)
			}
			if !slices.ContainsFunc(r.Snapshots, func(s SnapshotReport) bool { return s.ID == testID(2) && s.Problems == 0 && s.Chunks > 0 }) {
				t.Errorf("Verify: %+v", r.Snapshots)
			}
			if report, err := New(a.Store()).Sweep(t.Context(), SweepOptions{Now: func() time.Time { return later }}); err == nil || report.Deleted != 0 {
				t.Errorf("Sweep: %+v, %v", report, err)
			}
		})
	}
}

// TestStrayOfVoided: what stands where the tombstone of a session should, which ended
// without a snapshot, keeps sweeps from their work, so it is named too.
func TestStrayOfVoided(t *testing.T) {
	dir, a := folderArchive(t)
	if _, err := a.Void(t.Context(), testID(5), "", "test"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "deleted", testID(5)), 0o700); err != nil {
		t.Fatal(err)
	}
	list, strays, err := a.ListAll(t.Context())
	if err != nil || len(list) != 1 || len(strays) != 1 || !strings.Contains(strays[0].Error(), "deleted/"+testID(5)) {
		t.Errorf("%+v, %v, error %v", list, strays, err)
	}
}

// TestSurveyOverlooks puts what desktops, file systems, editors and copying
// programs leave, and companions: none of it is in anybody's way, and companions
// go with their snapshot.
func TestSurveyOverlooks(t *testing.T) {
	dir, a := folderArchive(t)
	in := func(id string) string { return "snapshots/" + id + "/" }
	companions := []string{"notes.txt", "index/a/b.parquet", "manifest.json.bak", "desktop.ini", "x.partial"}
	var litter []string
	for _, at := range []string{"", "snapshots/", in(testID(1)), "deleted/", "intents/", "gc/", "chunks/", "inventories/"} {
		litter = append(litter, at+".DS_Store", at+".snapshot/manifest.json", at+"@eaDir/x@SynoEAStream", at+"Thumbs.db", at+"desktop.ini", at+"lost+found/x")
	}
	litter = append(litter, in(testID(1))+"manifest.json~", in(testID(1))+"#manifest.json#", "snapshots/"+testID(1)+".tar", "README.txt")
	for _, c := range companions {
		litter = append(litter, in(testID(0))+c, in(testID(1))+c)
	}
	for _, path := range litter {
		at := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte("?"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, in(testID(0)), "link")); err != nil {
		t.Fatal(err)
	}
	a = New(a.Store())
	if list, err := a.List(t.Context()); err != nil || len(list) != 1 || list[0].Err != nil {
		t.Errorf("List: %+v, %v", list, err)
	}
	if r, err := a.Verify(t.Context(), VerifyOptions{Trust: testTrust()}); err != nil || !r.OK() {
		t.Errorf("Verify: %+v, %v", r, err)
	} else {
		for _, n := range r.Notes {
			if strings.HasPrefix(n.Object, in(testID(1))) {
				t.Errorf("Verify notes %v", n)
			}
		}
	}
	if report, err := a.Sweep(t.Context(), at(epoch)); err != nil || report.Deleted == 0 {
		t.Errorf("Sweep: %+v, %v", report, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, in(testID(0)))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of the deleted snapshot is left: %v, %v", left, err)
	}
	for _, path := range litter {
		if _, err := os.Lstat(filepath.Join(dir, path)); err != nil && !strings.HasPrefix(path, in(testID(0))) {
			t.Errorf("swept: %v", err)
		}
	}
}

// TestIntentUnread: a session whose intent is no file, or another user's, is in the
// list without a name; whoever must know the name, or wait for it, stops.
func TestIntentUnread(t *testing.T) {
	dir, a := folderArchive(t)
	at := filepath.Join(dir, manifest.IntentPath(testID(5)))
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.Symlink("nowhere", at)); err != nil {
		t.Fatal(err)
	}
	list, err := a.UnderWay(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != testID(5) || store.AsObstacle(list[0].Err) == nil {
		t.Errorf("UnderWay: %+v, %v", list, err)
	}
	for name, err := range map[string]error{
		"Begin":  create(t.Context(), a, testIntent(6, "another"), "chunk"),
		"Remove": func() error { _, err := a.Remove(t.Context(), testID(5), "test"); return err }(),
		"Sweep": func() error {
			_, err := a.Sweep(t.Context(), SweepOptions{Now: func() time.Time { return later }})
			return err
		}(),
	} {
		if store.AsObstacle(err) == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	begun, err := a.TakeOver(t.Context(), func(Intent) bool { return true }, func(in Intent) (Intent, error) { return in, nil })
	if len(begun) != 0 || err != nil {
		t.Errorf("TakeOver: %v, %v", begun, err)
	}
	if _, err := os.Lstat(at); err != nil {
		t.Error(err)
	}
}
