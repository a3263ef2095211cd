package archive

import (
	"context"
	"fmt"
)

// checkName tells whether a session other than id, undecided or committed to a
// living snapshot, has the name. Two sessions that both put their intents and
// then check cannot both miss the other: the later one finds the earlier one's
// intent or, when that is gone, its manifest; so intents come before manifests.
func (a *Archive) checkName(ctx context.Context, name, id string) error {
	attempts, _, err := a.attempts(ctx)
	if err != nil {
		return fmt.Errorf("look for other sessions of this name: %w", err)
	}
	for _, t := range attempts {
		if t.ID != id && t.Name == name && t.Outcome.State == Undecided {
			return fmt.Errorf("%q: %w by session %s, which is under way: choose another, or wait for it", name, ErrNameTaken, t.ID)
		}
	}
	ids, err := a.undeleted(ctx)
	if err != nil {
		return fmt.Errorf("look for snapshots of this name: %w", err)
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
		return fmt.Errorf("look for snapshots of this name: %w", err)
	}
	for i, v := range verdicts {
		if ids[i] != id && !v.void && v.name == name {
			if a.trust != nil && a.read(ctx, ids[i]).Untrusted != nil {
				continue // a stranger takes no name
			}
			return fmt.Errorf("%q: %w by snapshot %s: choose another, or delete that one", name, ErrNameTaken, ids[i])
		}
	}
	return nil
}
