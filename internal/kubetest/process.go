package kubetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
)

// supervisor runs a command until file descriptor 3 ends, which it does with the
// test process, however that dies; or until the command ends by itself. Its
// arguments are folders to remove after that, one a line, and the command.
const supervisor = `
remove=$1; shift
trap '' INT TERM HUP
"$@" </dev/null 3<&- &
child=$!
(while read -r line; do :; done <&3; kill -KILL $child) 2>/dev/null &
watcher=$!
wait $child
kill $watcher 2>/dev/null
echo "$remove" | while read -r dir; do [ -z "$dir" ] || rm -rf "$dir"; done
`

// A process is a server that ends with this process.
type process struct {
	alive  io.Closer // its supervisor ends it when this ends
	exited chan struct{}
}

// startProcess starts a command with its output in a log. The folders remove, one
// a line, are removed after its end.
func startProcess(logFile, remove string, command ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("sh", append([]string{"-c", supervisor, "sh", remove}, command...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{r}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	p := &process{alive: w, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // how it ended stands in its log
	}()
	return p, nil
}

// kill ends the process and returns when it is gone.
func (p *process) kill() {
	p.alive.Close()
	<-p.exited
}
