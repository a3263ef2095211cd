package ring

import (
	"fmt"
	"strconv"
	"strings"

	"pcapsule/chunker"
)

const openDir = "open"

// Widths of the decimals in names. Nothing that fits into a chunk needs more.
const (
	timeDigits  = 19
	countDigits = 12
	maxCount    = 999_999_999_999
)

// fileName is the name of a sealed chunk. Times before 1970 have none.
func fileName(m chunker.Meta) (string, error) {
	if m.First < 0 || m.Last < m.First || m.Records > maxCount || m.RawSize < 0 || m.RawSize > maxCount {
		return "", fmt.Errorf("chunk with first %d, last %d, records %d, raw size %d cannot be kept", m.First, m.Last, m.Records, m.RawSize)
	}
	return fmt.Sprintf("%0*d_%0*d_%0*d_%0*d_%0*d_%s.%s", timeDigits, m.First, timeDigits, m.Last,
		countDigits, m.Records, countDigits, m.RawSize, countDigits, min(m.Drops, maxCount), m.Hash, chunker.Ext(m.Stream)), nil
}

// parseName reads what fileName wrote for a chunk of stream, and nothing else.
func parseName(stream, name string) (chunker.Meta, error) {
	bad := fmt.Errorf("%.200q is not the name of a sealed chunk of %s", name, stream)
	base, ok := strings.CutSuffix(name, "."+chunker.Ext(stream))
	if !ok {
		return chunker.Meta{}, bad
	}
	field := strings.Split(base, "_")
	if len(field) != 6 {
		return chunker.Meta{}, bad
	}
	var n [5]int64
	for i := range n {
		v, err := strconv.ParseInt(field[i], 10, 64)
		if err != nil {
			return chunker.Meta{}, bad
		}
		n[i] = v
	}
	hash, err := chunker.ParseHash(field[5])
	if err != nil {
		return chunker.Meta{}, bad
	}
	m := chunker.Meta{Stream: stream, Hash: hash, First: n[0], Last: n[1], Records: uint64(n[2]), RawSize: n[3], Drops: uint64(n[4])}
	if again, err := fileName(m); err != nil || again != name {
		return chunker.Meta{}, bad
	}
	return m, nil
}

// parseKey reads what chunk.key wrote.
func parseKey(key string) (chunker.Meta, error) {
	stream, name, _ := strings.Cut(key, "/")
	if err := checkStream(stream); err != nil {
		return chunker.Meta{}, err
	}
	return parseName(stream, name)
}

// checkStream keeps a stream's name fit for a folder and a part's name.
func checkStream(stream string) error {
	switch stream {
	case chunker.Packets, chunker.OS, chunker.Kubernetes:
		return nil
	}
	return fmt.Errorf("%.80q is not a stream", stream)
}

// partName is the name of an open part.
func partName(stream string, n int) string { return fmt.Sprintf("%s-%06d.part", stream, n) }

// partStream is the stream of an open part, by its name.
func partStream(name string) (string, error) {
	stream, _, ok := strings.Cut(name, "-")
	if !ok || !strings.HasSuffix(name, ".part") {
		return "", fmt.Errorf("%.200q is not the name of an open part", name)
	}
	return stream, checkStream(stream)
}
