package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"pcapsule/chunker"
)

// Kinds of content-addressed objects: the first part of their keys.
const (
	KindChunk     = "chunks"
	KindInventory = "inventories"
)

// InventoryExt is the extension of an inventory's key.
const InventoryExt = "ndjson"

// An ObjectKey is the parsed key of a content-addressed object:
// kind/hh/hex.ext, or kind/hh/hex.generation.ext when earlier generations of the
// same bytes were condemned by a sweep.
type ObjectKey struct {
	Kind       string
	Hash       chunker.Hash
	Generation uint64 // 0 stands in no key
	Ext        string
}

func (k ObjectKey) String() string {
	h := k.Hash.String()
	if k.Generation == 0 {
		return k.Kind + "/" + h[:2] + "/" + h + "." + k.Ext
	}
	return k.Kind + "/" + h[:2] + "/" + h + "." + strconv.FormatUint(k.Generation, 10) + "." + k.Ext
}

// ParseObjectKey reads a key that ObjectKey.String could have written, and
// nothing else.
func ParseObjectKey(key string) (ObjectKey, error) {
	bad := fmt.Errorf("key %.200q is not that of a chunk or an inventory", key)
	part := strings.Split(key, "/")
	if len(part) != 3 || len(part[2]) < 65 {
		return ObjectKey{}, bad
	}
	hash, err := chunker.ParseHash(part[2][:64])
	if err != nil {
		return ObjectKey{}, bad
	}
	k := ObjectKey{Kind: part[0], Hash: hash, Ext: strings.TrimPrefix(part[2][64:], ".")}
	if gen, ext, ok := strings.Cut(k.Ext, "."); ok {
		if n, err := strconv.ParseUint(gen, 10, 64); err == nil {
			k.Generation, k.Ext = n, ext
		}
	}
	switch {
	case k.Kind == KindChunk && (k.Ext == chunker.PacketsExt || k.Ext == chunker.EventsExt):
	case k.Kind == KindInventory && k.Ext == InventoryExt:
	default:
		return ObjectKey{}, bad
	}
	if k.String() != key {
		return ObjectKey{}, bad
	}
	return k, nil
}
