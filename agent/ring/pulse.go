package ring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// pulseFile holds a Pulse. It is rewritten while the ring is open, removed when
// it opens and when it closes, and never synced: it says nothing of the past.
const pulseFile = "pulse"

// maxPulse bounds the bytes of a pulse, and so how many problems it tells.
const maxPulse = 4096

// A Pulse is what the process that has the ring last said of itself, for whoever
// cannot ask: an agent listens on no port.
type Pulse struct {
	At       time.Time `json:"at"`
	Problems []string  `json:"problems,omitempty"` // why less is recorded than was asked for
}

// Beat says that the ring's process is alive, and what keeps it from recording
// all that it is to record.
func (r *Ring) Beat(problems []string) error {
	p := Pulse{At: r.opt.Now().UTC(), Problems: problems}
	b, err := json.Marshal(p)
	if err == nil && len(b) > maxPulse {
		p.Problems = []string{"too many to tell here: see the log"}
		b, err = json.Marshal(p)
	}
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, pulseFile)
	err = r.withRoom(maxPulse, func() error {
		if err := r.disk.check("beat", path); err != nil {
			return err
		}
		if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
			return err
		}
		return os.Rename(path+".tmp", path)
	})
	if err != nil {
		return fmt.Errorf("say that the ring is in use: %w", err)
	}
	return nil
}

// ErrNoPulse says that no process has the ring, or that it is not yet, or no
// longer, at work.
var ErrNoPulse = errors.New("nothing is recorded into the ring")

// ReadPulse reads what the process that has the ring in dir last said.
// ErrNoPulse when there is none.
func ReadPulse(dir string) (p Pulse, err error) {
	b, err := readFile(filepath.Join(dir, pulseFile), maxPulse)
	if isNotExist(err) {
		return p, ErrNoPulse
	}
	if err != nil {
		return p, fmt.Errorf("read the ring's pulse: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read the ring's pulse: %w", err)
	}
	return p, nil
}

// still says that nobody is alive.
func (r *Ring) still() {
	path := filepath.Join(r.dir, pulseFile)
	for _, name := range []string{path, path + ".tmp"} {
		if err := r.disk.remove(name); err != nil && !isNotExist(err) {
			r.opt.Logger.Warn("cannot remove the ring's pulse", "err", err)
		}
	}
}
