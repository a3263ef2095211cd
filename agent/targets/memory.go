package targets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A memory is which pods ran on a node, for an agent that starts while the API
// server is away. It is of use until the machine starts anew, which gives pods
// other addresses.
type memory struct {
	Format  string         `json:"format"`
	Version int            `json:"version"`
	Node    string         `json:"node"`
	Boot    string         `json:"boot"` // random, other after each start of the machine
	Pods    map[string]pod `json:"pods"` // by UID
}

const (
	memoryFormat  = "pcapsule.pods"
	memoryVersion = 1
	maxMemory     = 4 << 20 // bytes
	bootFile      = "/proc/sys/kernel/random/boot_id"
)

func bootID() (string, error) {
	b, err := os.ReadFile(bootFile)
	if err != nil {
		return "", fmt.Errorf("tell one start of the machine from another: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// remember writes pods to file, in place of what was there.
func remember(file, node string, pods map[string]pod) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	b, err := json.Marshal(memory{Format: memoryFormat, Version: memoryVersion, Node: node, Boot: boot, Pods: pods})
	if err != nil {
		return fmt.Errorf("write pods: %w", err)
	}
	next := file + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return fmt.Errorf("write pods: %w", err)
	}
	// Without syncing: after a crash of the machine it is of no use.
	if err := os.Rename(next, file); err != nil {
		return fmt.Errorf("write pods: %w", err)
	}
	return nil
}

// recall reads what was remembered of a node: nil without an error when that is
// nothing, or of no use now.
func recall(file, node string) (map[string]pod, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pods: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMemory+1))
	if err != nil {
		return nil, fmt.Errorf("read pods: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	m, err := decodeMemory(b)
	if err != nil {
		return nil, fmt.Errorf("read pods from %s: %w", filepath.Base(file), err)
	}
	if m.Node != node || m.Boot != boot {
		return nil, nil
	}
	return m.Pods, nil
}

func decodeMemory(b []byte) (memory, error) {
	if len(b) > maxMemory {
		return memory{}, fmt.Errorf("more than %d bytes", maxMemory)
	}
	var m memory
	if err := json.Unmarshal(b, &m); err != nil {
		return memory{}, err
	}
	if m.Format != memoryFormat || m.Version != memoryVersion {
		return memory{}, fmt.Errorf("format %.40q, version %d: want %q, version %d", m.Format, m.Version, memoryFormat, memoryVersion)
	}
	if m.Pods == nil {
		return memory{}, errors.New("no pods")
	}
	for uid, p := range m.Pods {
		for _, a := range p.Addresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				return memory{}, fmt.Errorf("pod %.40q has the address %v", uid, a)
			}
		}
	}
	return m, nil
}
