package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// An Obstacle is something in a store that stands where an object could stand and
// is none: a link, a device, a folder that cannot be read, a name that no key can
// have.
//
// Get, Stat, Put and Delete fail with an Obstacle that stands in their way. List
// yields it as an error of one place, and goes on with the other places when the
// caller does. So whoever stops at the first error, as most do, never takes a
// list that lacks something for a whole one.
type Obstacle struct {
	Path string // like a key; that of a folder ends in a slash
	What string // for people: why it is no object, and what to do
	Err  error  // of the file system, or nil
	Name bool   // only the name is at fault: no key can name it
}

func (o *Obstacle) Error() string {
	path := o.Path
	if o.Name {
		path = strconv.Quote(path)
	}
	return path + " " + o.What
}

func (o *Obstacle) Unwrap() error { return o.Err }

// AsObstacle returns the obstacle that err is about, or nil.
func AsObstacle(err error) *Obstacle {
	var o *Obstacle
	errors.As(err, &o)
	return o
}

// irregular is the obstacle that a file which is neither regular nor a folder is.
func irregular(path string, mode fs.FileMode) *Obstacle {
	switch {
	case mode&fs.ModeSymlink != 0 && !strings.Contains(path, "/"):
		return &Obstacle{Path: path, What: "is a link, and links are not followed: put what it leads to in its place, mount it there (mount --bind), or keep the whole store where it leads"}
	case mode&fs.ModeSymlink != 0:
		return &Obstacle{Path: path, What: "is a link, and links are not followed: put what it leads to in its place (`cp -RL` copies a store so)"}
	case mode&fs.ModeNamedPipe != 0:
		return &Obstacle{Path: path, What: "is a named pipe where an object should be: move it out of the store"}
	}
	return &Obstacle{Path: path, What: fmt.Sprintf("is no regular file (%s): move it out of the store", mode.Type())}
}

// folderFor is the obstacle that a folder is in the place of an object. The object
// is absent, too: a folder is where other objects are.
func folderFor(key string) *Obstacle {
	return &Obstacle{Path: key + "/", What: "is a folder where an object should be", Err: ErrNotExist}
}

// fileFor is the obstacle that a file is in the place of a folder.
func fileFor(path string, err error) *Obstacle {
	return &Obstacle{Path: path, What: "is a file where a folder should be: move it out of the store", Err: err}
}

// misnamed is the obstacle that a file is whose name no key can have.
func misnamed(path string) *Obstacle {
	return &Obstacle{Path: path, What: "has a name that no object can have", Name: true}
}

// hidden tells names that are nobody's: those of file systems, desktops and
// copying programs that start with a dot, Put's own among them.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }
