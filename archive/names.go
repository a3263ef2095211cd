package archive

import (
	"context"
	"fmt"
)

// checkName tells whether a session other than id, undecided or committed to a
// living snapshot, has the name. Two sessions that both put their intents and
// then check cannot both miss the other: the later one finds the earlier one's
// intent or, when that is gone, its manifest; so intents come before manifests.
// A session of that name whose process has died is ended.
//
// announced tells whether the intent of id is in the list of intents, and in the
// store by its key.
func (a *Archive) checkName(ctx context.Context, name, id string) (announced bool, err error) {
	attempts, _, err := a.attempts(ctx, map[string]bool{id: true}) // of which the intent was put just now
	if err != nil {
		return false, fmt.Errorf("look for other sessions of this name: %w", err)
	}
	for _, t := range attempts {
		announced = announced || t.ID == id
		if t.Err != nil && t.ID != id && (t.Outcome.State == Undecided || t.Outcome.State == "") {
			return false, fmt.Errorf("cannot tell the names of sessions under way: %w", t.Err)
		}
		if t.ID == id || t.Name != name || t.Outcome.State != Undecided {
			continue
		}
		if !t.Dead() {
			return false, fmt.Errorf("%q: %w by session %s of %s, which is under way: choose another, wait for it, or end it with `pcapsule snapshot delete %s`",
				name, ErrNameTaken, t.ID, t.Who(), t.ID)
		}
		// Whatever its outcome turns out to be, the manifests below show it.
		if _, err := a.end(ctx, t.ID, buried(t.Intent)); err != nil {
			return false, fmt.Errorf("end session %s, which has the name and whose process died: %w", t.ID, err)
		}
	}
	ids, err := a.undeleted(ctx)
	if err != nil {
		return false, fmt.Errorf("look for snapshots of this name: %w", err)
	}
	verdicts := make([]verdict, len(ids))
	err = a.each(ctx, len(ids), func(ctx context.Context, i int) error {
		v, err := a.verdict(ctx, ids[i])
		if absent(err) {
			return nil // deleted, and swept
		}
		verdicts[i] = v
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for snapshots of this name: %w", err)
	}
	for i, v := range verdicts {
		if ids[i] != id && !v.void && v.name == name {
			if a.trust != nil && a.read(ctx, ids[i]).Untrusted != nil {
				continue // a stranger takes no name
			}
			return false, fmt.Errorf("%q: %w by snapshot %s: choose another, or delete that one", name, ErrNameTaken, ids[i])
		}
	}
	return announced, nil
}
