package archive

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestWritable: whoever changes the store heeds store.json, as it is at that
// moment; whoever reads does not.
func TestWritable(t *testing.T) {
	const head = `{"format":"pcapsule.store","version":1`
	for name, c := range map[string]struct {
		text string
		says string // part of the error; empty: all is as without the file
	}{
		"no words":          {head + `,"write_requires":[]}`, ""},
		"no member":         {head + `,"later":1}`, ""},
		"a word":            {head + `,"write_requires":["hold"]}`, `requires "hold"`},
		"words":             {head + `,"write_requires":["hold","log"]}`, `requires "hold, log"`},
		"a newer version":   {`{"format":"pcapsule.store","version":2}`, "update pcapsule"},
		"another format":    {`{"format":"x","version":1}`, `format is "x"`},
		"no JSON":           {"hello", "not JSON"},
		"nothing":           {"", "not JSON"},
		"a member twice":    {head + `,"write_requires":["hold"],"write_requires":[]}`, "twice"},
		"a text for a list": {head + `,"write_requires":"hold"}`, "write_requires"},
		"too large":         {head + `}` + strings.Repeat(" ", manifest.MaxStore), "at most 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := newStore(t)
			a := New(mem) // begins before the file is there
			mustCreate(t, a, testIntent(0, "old"), "own")
			mustCreate(t, a, testIntent(1, "new"), "other")
			if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
				t.Fatal(err)
			}
			running, err := a.Begin(t.Context(), testIntent(2, "running"))
			if err != nil {
				t.Fatal(err)
			}
			storetest.Put(t, mem, manifest.StorePath, []byte(c.text))
			before := mem.Keys()
			_, begin := a.Begin(t.Context(), testIntent(3, "newer"))
			del := a.Delete(t.Context(), testID(1), "me")
			_, sweep := a.Sweep(t.Context(), at(later))
			_, void := a.Void(t.Context(), testID(2), "", "test")
			_, take := a.TakeOver(t.Context(), func(Intent) bool { return true }, func(in Intent) (Intent, error) {
				next := testIntent(4, in.Name)
				return next, nil
			})
			for verb, err := range map[string]error{"Begin": begin, "Delete": del, "Sweep": sweep, "Void": void, "TakeOver": take} {
				switch {
				case c.says == "" && err != nil:
					t.Errorf("%s: %v", verb, err)
				case c.says != "" && (!errors.Is(err, ErrRequires) || !strings.Contains(err.Error(), c.says)):
					t.Errorf("%s: %v", verb, err)
				}
			}
			if c.says == "" {
				return
			}
			if !slices.Equal(before, mem.Keys()) {
				t.Errorf("the store has changed: %q, before %q", mem.Keys(), before)
			}
			if list, err := a.List(t.Context()); err != nil || len(list) != 1 || list[0].Err != nil {
				t.Errorf("List: %+v, %v", list, err)
			}
			if _, err := a.Find(t.Context(), "new"); err != nil {
				t.Errorf("Find: %v", err)
			}
			// What has begun comes to its end: who requires a word waits for that.
			if m, err := fill(t.Context(), running, "third"); err != nil {
				t.Error(err)
			} else if err := running.Commit(t.Context(), m, testSigner); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWritableUnread: what the store does not give is not taken for no file.
func TestWritableUnread(t *testing.T) {
	mem := newStore(t)
	mustCreate(t, New(mem), testIntent(0, "old"), "own")
	faulty := storetest.NewFaulty(mem, func(_, key string) storetest.Fault {
		if key == manifest.StorePath {
			return storetest.Refused
		}
		return storetest.NoFault
	})
	if err := New(faulty).Delete(t.Context(), testID(0), "me"); !errors.Is(err, storetest.ErrFault) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := New(faulty).Sweep(t.Context(), at(later)); !errors.Is(err, storetest.ErrFault) {
		t.Errorf("Sweep: %v", err)
	}
	dir := t.TempDir()
	f, err := store.NewFolder(dir, store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	storetest.Put(t, f, manifest.StorePath+"/x", nil) // a folder
	if err := New(f).Writable(t.Context()); !errors.Is(err, ErrRequires) {
		t.Errorf("a folder: %v", err)
	}
}
