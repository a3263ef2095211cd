package archive

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pcapsule/manifest"
	"pcapsule/store"
)

// Open returns the archive in st. In a tar it may lie below a folder, as where
// somebody packed the folder of a store from outside.
func Open(st store.Store) (*Archive, error) {
	t, ok := st.(*store.Tar)
	if !ok {
		return New(st), nil
	}
	dir, err := root(t)
	if err == nil && dir == "" {
		return New(t), nil
	}
	below := t
	if err == nil {
		below, err = t.Below(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open tar %s: %w", t, err)
	}
	return New(below), nil
}

// root is the folder in t whose snapshots are those of an archive, empty when
// they are not in one.
func root(t *store.Tar) (string, error) {
	roots := map[string]bool{}
	of := false // has something else of an archive
	for name := range t.Names {
		at := strings.Index("/"+name, "/"+manifest.SnapshotsDir)
		if at < 0 {
			of = of || ofArchive(name)
			continue
		}
		if _, _, ok := manifest.SplitSnapshotPath(name[at:]); ok {
			roots[name[:at]] = true
		}
		of = of || at == 0
	}
	dirs := slices.DeleteFunc(slices.Sorted(maps.Keys(roots)), func(dir string) bool {
		// A copy of an archive inside another is not looked for.
		for other := range roots {
			if other != dir && strings.HasPrefix(dir, other) {
				return true
			}
		}
		return false
	})
	switch {
	case len(dirs) == 1:
		return dirs[0], nil
	case len(dirs) > 1:
		return "", fmt.Errorf("it holds several archives, in %s: unpack it, and name the folder of one", strings.Join(dirs, " and "))
	case of:
		return "", nil
	}
	return "", fmt.Errorf("there is no archive in it: no name has the form %s", manifest.ManifestPath("ID"))
}

// ofArchive tells whether name is below one of the top folders of a store.
func ofArchive(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	switch top + "/" {
	case manifest.SnapshotsDir, manifest.IntentsDir, manifest.DeletedDir, manifest.CondemnedDir,
		manifest.KindChunk + "/", manifest.KindInventory + "/":
		return true
	}
	return false
}
