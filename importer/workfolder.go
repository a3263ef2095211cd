package importer

import (
	"os"
	"path/filepath"
	"strings"

	"pcapsule/internal/process"
)

// workPrefix begins the names of the folders where imports keep chunks on their
// way; the tag of the process that made one follows.
const workPrefix = "pcapsule-import-"

// workFolder makes a folder for chunks on their way, and removes those of this
// user's imports that were killed.
func workFolder() (dir string, release func(), err error) {
	temp := os.TempDir()
	removeDead(temp)
	dir, err = os.MkdirTemp(temp, workPrefix+process.Self().Tag()+"-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// removeDead removes the folders of imports whose process has died. What it may
// not remove is another's.
func removeDead(temp string) {
	names, _ := filepath.Glob(filepath.Join(temp, workPrefix+"*"))
	for _, name := range names {
		tag := strings.TrimPrefix(filepath.Base(name), workPrefix)
		if i := strings.LastIndexByte(tag, '-'); i >= 0 && process.TagDead(tag[:i]) && ownFolder(name) {
			_ = os.RemoveAll(name)
		}
	}
}
