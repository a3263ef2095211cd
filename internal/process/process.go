// Package process names processes so that others can tell, years later and on
// any machine, whether one has certainly died. It never guesses: a process that
// it knows too little about counts as alive.
package process

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"
)

// An ID is one process of one machine, for good: a pid that is used again has
// another start. The zero ID is a process that nothing is known of.
type ID struct {
	Host    string `json:"host,omitempty"`    // the machine's name, which others may share
	Machine string `json:"machine,omitempty"` // hash of the machine's id, which copies of it share
	Boot    string `json:"boot,omitempty"`    // the kernel's boot id: new with each start of the machine
	Space   string `json:"space,omitempty"`   // the namespaces in which pid and start count: "pid:[4026531836] time:[4026531834]"
	PID     int    `json:"pid,omitempty"`
	Start   uint64 `json:"start,omitempty"` // when the process began, in clock ticks since the boot
}

// initialPIDs is the inode that Linux gives the pid namespace of the machine
// itself, on every machine.
const initialPIDs = "pid:[4026531836]"

// Dead tells whether the process has certainly ended.
func (p ID) Dead() bool { return p.deadFor(Self()) }

// deadFor is Dead as the process self sees it.
func (p ID) deadFor(self ID) bool {
	switch {
	case p.PID <= 0 || p.Start == 0 || p.Boot == "" || p.Space == "" || self.Boot == "" || self.Space == "":
		return false
	case p.Boot == self.Boot:
		return p.Space == self.Space && ended(p.PID, p.Start)
	}
	// Another boot: the machine was started again, if it is this machine. A
	// container has the machine id of its image, so both must be outside of any;
	// clones of a virtual machine that kept its id have names of their own.
	return p.Machine != "" && p.Machine == self.Machine && p.Host != "" && p.Host == self.Host &&
		p.Space == self.Space && strings.HasPrefix(p.Space, initialPIDs+" ")
}

// String names the process for people.
func (p ID) String() string {
	if p.PID == 0 {
		return "unknown process"
	}
	return fmt.Sprintf("process %d on %s", p.PID, p.Host)
}

// Tag is the process in a name of a file. IsTagDead understands it.
func (p ID) Tag() string {
	if p.PID == 0 || p.Start == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%s-%d-%d", p.world(), p.PID, p.Start)
}

// world tells where pid and start count, in 16 digits.
func (p ID) world() string { return hash(p.Boot + " " + p.Space)[:16] }

// TagDead tells whether the process that a Tag names has certainly ended. What
// is no tag names none.
func TagDead(tag string) bool {
	self := Self()
	if self.Boot == "" || self.Space == "" {
		return false
	}
	world, rest, _ := strings.Cut(tag, "-")
	pid, start, ok := strings.Cut(rest, "-")
	n, err := strconv.Atoi(pid)
	ticks, serr := strconv.ParseUint(start, 10, 64)
	return ok && err == nil && serr == nil && n > 0 && ticks > 0 && world == self.world() && ended(n, ticks)
}

func hash(s string) string {
	h := blake3.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}
