//go:build linux && race

package pcapgen

// raceFactor is what the race detector takes: several times the memory of what
// it watches.
const raceFactor = 4
