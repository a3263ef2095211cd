package process

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// of is the ID of another process of this machine.
func of(t *testing.T, pid int) ID {
	t.Helper()
	p := Self()
	p.PID = pid
	var err error
	if _, p.Start, err = stat(pid); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDead(t *testing.T) {
	if Self().Dead() || TagDead(Self().Tag()) {
		t.Error("this process counts as dead")
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := of(t, cmd.Process.Pid)
	if p.Dead() || TagDead(p.Tag()) {
		t.Error("a process that runs counts as dead")
	}
	again := p
	again.Start--
	if !again.Dead() || !TagDead(again.Tag()) {
		t.Error("a process whose pid is another's now counts as alive")
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for state := byte(0); state != 'Z'; { // the kernel gets there by itself
		state, _, _ = stat(cmd.Process.Pid)
	}
	if !p.Dead() || !TagDead(p.Tag()) {
		t.Error("a zombie counts as alive")
	}
	_ = cmd.Wait()
	if !p.Dead() || !TagDead(p.Tag()) {
		t.Error("a process that is gone counts as alive")
	}
}

// TestDeadElsewhere: what this process cannot know it does not conclude.
func TestDeadElsewhere(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := of(t, cmd.Process.Pid)
	_ = cmd.Wait()
	self := Self()
	self.Machine, self.Host = "m", "web-1"
	self.Space = initialPIDs + " time:[4026531834]"
	gone.Machine, gone.Host, gone.Space = self.Machine, self.Host, self.Space
	container := strings.Replace(self.Space, initialPIDs, "pid:[4026532201]", 1)
	for _, c := range []struct {
		name   string
		change func(p, self *ID)
		dead   bool
	}{
		{"gone", func(*ID, *ID) {}, true},
		{"another host's name, same boot", func(p, _ *ID) { p.Host = "db-1" }, true},
		{"another container", func(p, _ *ID) { p.Space = container }, false},
		{"seen from a container", func(_, self *ID) { self.Space = container }, false},
		{"another clock of starts", func(p, _ *ID) { p.Space = initialPIDs + " time:[4026532777]" }, false},
		{"machine was started again", func(p, _ *ID) { p.Boot = "before" }, true},
		{"another machine of the same name", func(p, _ *ID) { p.Boot, p.Machine = "other", "m2" }, false},
		{"a clone with another name", func(p, _ *ID) { p.Boot, p.Host = "other", "web-2" }, false},
		{"a container's machine id", func(p, self *ID) { p.Boot, p.Space, self.Space = "other", container, container }, false},
		{"no machine id", func(p, self *ID) { p.Boot, p.Machine, self.Machine = "other", "", "" }, false},
		{"no boot id", func(p, _ *ID) { p.Boot = "" }, false},
		{"none known here", func(_, self *ID) { self.Boot = "" }, false},
		{"no space", func(p, self *ID) { p.Space, self.Space = "", "" }, false},
		{"no pid", func(p, _ *ID) { p.PID = 0 }, false},
		{"no start", func(p, _ *ID) { p.Start = 0 }, false},
		{"nothing", func(p, _ *ID) { *p = ID{} }, false},
	} {
		p, s := gone, self
		c.change(&p, &s)
		if got := p.deadFor(s); got != c.dead {
			t.Errorf("%s: dead is %v", c.name, got)
		}
	}
	for _, tag := range []string{"", "unknown", "x-1-1", Self().world() + "-", Self().world() + "-1-", Self().world() + "--1", "0123456789abcdef-1-1"} {
		if TagDead(tag) {
			t.Errorf("tag %q counts as dead", tag)
		}
	}
}
