// Package reload keeps a value that is made from files, and makes it again when
// they change: certificates that are rotated, tokens that the kubelet renews.
//
// It compares contents, not times of change: the files are small, and what the
// kubelet does (it swaps a symbolic link above them) shows in no other way that
// is as sure.
package reload

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

// period is how often files are looked at, at most.
const period = time.Second

// maxFile bounds a file.
const maxFile = 1 << 20

// A Value is made from files. Its methods may be called concurrently.
type Value[T any] struct {
	names []string
	parse func(contents [][]byte) (T, error)
	now   func() time.Time
	warn  func(error)

	mu     sync.Mutex
	value  T
	have   [][]byte // the contents that value is made from
	looked time.Time
	wrong  string // what was wrong when last looked, and has been told
}

// New makes the value that parse makes of the contents of files, in order. What
// is wrong now is an error. What is wrong later, perhaps because files are being
// replaced one by one, is told to warn, once, and the value stays as it was.
func New[T any](now func() time.Time, warn func(error), parse func(contents [][]byte) (T, error), names ...string) (*Value[T], error) {
	v := &Value[T]{names: names, parse: parse, now: now, warn: warn}
	if err := v.look(); err != nil {
		return nil, err
	}
	return v, nil
}

// Get is the value now.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.now().Sub(v.looked); d >= 0 && d < period {
		return v.value
	}
	err := v.look()
	switch {
	case err == nil:
		v.wrong = ""
	case err.Error() != v.wrong:
		v.wrong = err.Error()
		v.warn(err)
	}
	return v.value
}

func (v *Value[T]) look() error {
	v.looked = v.now()
	contents := make([][]byte, len(v.names))
	changed := v.have == nil
	for i, name := range v.names {
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		if st.Size() > maxFile {
			return fmt.Errorf("%s has %d bytes: that is no certificate, key or token", name, st.Size())
		}
		if contents[i], err = os.ReadFile(name); err != nil {
			return err
		}
		changed = changed || !bytes.Equal(contents[i], v.have[i])
	}
	if !changed {
		return nil
	}
	value, err := v.parse(contents)
	if err != nil {
		return err
	}
	v.value, v.have = value, contents
	return nil
}
