package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// A Space is how much room there is in a store that knows it.
type Space struct {
	Total, Free           int64 // bytes of its volume, and those that are free for everybody
	TotalFiles, FreeFiles int64 // files that the volume can hold, and how many more; both zero when there is no limit
}

// Bounds of Floor.
const (
	minFloor   = 64 << 20
	maxFloor   = 4 << 30
	floorShare = 100 // the floor is a hundredth of the volume
	smallShare = 16  // and at most a sixteenth
)

// Floor is how much is kept free on a volume like this one: no session begins
// below. It leaves room for those that are under way, and for what else lives
// there: a hundredth of the volume, from 64 MiB to 4 GiB, and never more than a
// sixteenth.
func (s Space) Floor() (bytes, files int64) {
	bytes = min(max(s.Total/floorShare, minFloor), maxFloor, s.Total/smallShare)
	return bytes, min(max(s.TotalFiles/floorShare, 256), 4096, s.TotalFiles/smallShare)
}

// A Volume is a store that may become full of its own, as a folder does. Put
// with Body.Frees uses what it keeps in reserve.
type Volume interface {
	// Space tells how much room there is.
	Space() (Space, error)

	// Restock makes the reserve whole. With ErrNoSpace there is no room for it.
	Restock() error

	// Tidy is Restock, and removes what dead processes left half-written.
	Tidy() error
}

// A folder's reserve is some files that hold nothing, each an inode and some
// blocks. It lies where no key is, and where the sweeping of temporary files by
// older programs does not look.
const (
	reserveDir     = tempDir + "/reserve"
	reserveFiles   = 32
	maxReserveFile = 32 << 10
)

// reserveFile is the size of each of them: on a small volume less than the most.
func reserveFile(total int64) int64 {
	if total <= 0 {
		return maxReserveFile
	}
	const block = 4 << 10
	return min(max(total/32/reserveFiles/block*block, block), maxReserveFile)
}

// Space tells how much room there is on the folder's volume, or what its project
// quota leaves.
func (f *Folder) Space() (Space, error) {
	d, err := f.root.Open(".")
	if err != nil {
		return Space{}, fmt.Errorf("look for free space of %s: %w", f.dir, err)
	}
	defer d.Close()
	s, err := volumeSpace(d)
	if err != nil {
		return Space{}, fmt.Errorf("look for free space of %s: %w", f.dir, err)
	}
	return s, nil
}

// Restock makes the reserve whole.
func (f *Folder) Restock() error {
	s, err := f.Space()
	if err != nil {
		s = Space{}
	}
	for _, dir := range []string{tempDir, reserveDir} {
		if err := f.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a reserve in %s: %w", f.dir, folderError(err))
		}
	}
	for i := range reserveFiles {
		if err := f.reserve(reserveName(i), reserveFile(s.Total)); err != nil {
			return fmt.Errorf("make a reserve in %s: %w", f.dir, folderError(err))
		}
	}
	return nil
}

func reserveName(i int) string { return fmt.Sprintf("%s/%02d", reserveDir, i) }

// reserve makes one file of the reserve, unless it is there. Several processes
// may do so at once.
func (f *Folder) reserve(name string, size int64) error {
	if _, err := f.root.Lstat(name); err == nil {
		return nil
	}
	file, temp, err := f.openTemp()
	if err != nil {
		return err
	}
	defer func() { _ = f.root.Remove(temp) }() // fails where it was renamed
	if err = preallocate(file, size); errors.Is(err, errors.ErrUnsupported) {
		// Zeros would take no room where the file system compresses.
		if _, err = io.CopyN(file, rand.Reader, size); err == nil {
			err = file.Sync() // with delayed allocation the room is taken here
		}
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.root.Rename(temp, name)
	}
	return err
}

// giveUp gives up a file of the reserve, for size bytes that are needed. It tells
// whether trying again makes sense: there was one, and all of them may be enough.
func (f *Folder) giveUp(size int64) bool {
	var names []string
	var held int64
	for i := range reserveFiles {
		if info, err := f.root.Lstat(reserveName(i)); err == nil && info.Mode().IsRegular() {
			names, held = append(names, reserveName(i)), held+info.Size()
		}
	}
	// Where a quota counts, the volume may look emptier than it is: then all of
	// the reserve goes for nothing, and comes back with the next Restock.
	if s, err := f.Space(); err == nil && s.Free+held < size {
		return false
	}
	for i := len(names) - 1; i >= 0; i-- {
		if f.root.Remove(names[i]) == nil { // else another process gave it up
			return true
		}
	}
	return false
}

// putFreeing is Put of what is a step towards freeing space.
func (f *Folder) putFreeing(ctx context.Context, key string, body Body) error {
	for {
		err := f.write(ctx, key, io.NewSectionReader(body, 0, body.Size), body.Size, body.SHA256)
		if !errors.Is(err, ErrNoSpace) || !f.giveUp(body.Size) {
			return err
		}
	}
}

// Tidy makes the reserve whole and removes what dead processes left.
func (f *Folder) Tidy() error {
	if _, err := f.root.Lstat(tempDir); errors.Is(err, fs.ErrNotExist) {
		return nil // nobody has ever written here
	}
	f.sweepTemp()
	return f.Restock()
}

// openTemp makes a temporary file whose name tells which process writes it.
func (f *Folder) openTemp() (file *os.File, name string, err error) {
	name = path.Join(tempDir, tempName())
	file, err = f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return file, name, err
}
