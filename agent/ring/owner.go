package ring

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// ownerFile names whose ring this is, on one line. A ring without it is anybody's.
const ownerFile = "owner"

// maxOwner bounds the bytes of a name: two names of Kubernetes fit.
const maxOwner = 1024

// An OwnerError says that a ring is another's. Who takes it over hands out as
// its own what the other recorded, by other rules, and recycles it.
type OwnerError struct {
	Dir   string
	Owner string // as the ring says
	Asks  string // who wants to open it; "" when that has no name
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("ring %s is that of %q, not of %q", e.Dir, e.Owner, e.Asks)
}

// claim makes the ring that of its options' Owner, unless it is another's. The
// ring's lock is held.
func (r *Ring) claim() error {
	path := filepath.Join(r.dir, ownerFile)
	if strings.ContainsAny(r.opt.Owner, "\r\n") || len(r.opt.Owner) >= maxOwner {
		return errors.New("owner of a ring is to be a short line")
	}
	b, err := readFile(path, maxOwner)
	switch {
	case isNotExist(err):
		if r.opt.Owner == "" {
			return nil
		}
	case err != nil:
		return fmt.Errorf("see whose ring it is: %w", err)
	default:
		owner := strings.TrimSpace(string(b))
		if owner == r.opt.Owner {
			return nil
		}
		if owner != "" && !r.opt.TakeOver {
			return &OwnerError{Dir: r.dir, Owner: owner, Asks: r.opt.Owner}
		}
		r.opt.Logger.Warn("the ring is taken over", "from", owner, "by", r.opt.Owner)
	}
	// On a full disk the ring makes room a moment later, and is claimed next time.
	if err := r.disk.replace(path, []byte(r.opt.Owner+"\n")); err != nil && !noSpace(err) {
		return fmt.Errorf("say whose ring it is: %w", err)
	}
	return nil
}
