package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// leastMemory is what an agent takes that uploads a part while it records.
const leastMemory = 64 << 20

// memoryFiles hold the limit of this process's memory, in a container.
var memoryFiles = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// tightMemory is what there is to warn of the limit of this process's memory: with
// less than it takes, the kernel ends it, again and again.
func tightMemory(files []string) string {
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && limit < leastMemory { // no number when there is no limit
			return fmt.Sprintf("the memory of this agent is limited to %s, and it needs %s: it will be killed while it records", humanize.IBytes(limit), humanize.IBytes(leastMemory))
		}
	}
	return ""
}
