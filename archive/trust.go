package archive

import (
	"fmt"

	"pcapsule/manifest"
)

// Trusting makes the archive hold every snapshot that it reads against t: what
// Snapshot.Whose and Snapshot.Untrusted say. Of several snapshots of one name Find
// takes the one that is trusted, and a snapshot that is not takes no name from
// others. It returns a, and comes before any other call.
func (a *Archive) Trusting(t *manifest.Trust) *Archive {
	a.trust = t
	return a
}

// An UntrustedError says that a snapshot is whole, and signed by somebody whom the
// reader does not trust.
type UntrustedError struct {
	ID, Name string
	Key      manifest.PublicKey // that signed it
	Why      error              // Key does not count
}

func (e *UntrustedError) Error() string {
	return fmt.Sprintf("snapshot %s (%s) is not signed by a key that is trusted: %v", e.Name, e.ID, e.Why)
}

func (e *UntrustedError) Unwrap() error { return e.Why }

// hold holds a snapshot's key against what the archive trusts.
func (a *Archive) hold(s *Snapshot) {
	if a.trust == nil {
		return
	}
	whose, err := a.trust.Whose(s.Key, s.Manifest.Created.Time())
	if err != nil {
		s.Untrusted = &UntrustedError{ID: s.ID, Name: s.Name(), Key: s.Key, Why: err}
		return
	}
	s.Whose = whose
}
