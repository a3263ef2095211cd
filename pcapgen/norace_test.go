//go:build linux && !race

package pcapgen

const raceFactor = 1
