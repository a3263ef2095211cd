package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"pcapsule/chunker"
)

// Top folders of a store. Sweeps and sessions meet in the last three.
const (
	SnapshotsDir = "snapshots/"
	IntentsDir   = "intents/"
	DeletedDir   = "deleted/"
	CondemnedDir = "gc/"
)

// StorePath is the key of what a store asks of those who write to it.
const StorePath = "store.json"

// The objects of a snapshot, below SnapshotsDir and its id.
const (
	manifestFile  = "manifest.json"
	signatureFile = "manifest.json.sig"
	signersFile   = "allowed_signers"
)

// ManifestPath is the key of a snapshot's manifest, or of the void marker that
// stands in its place.
func ManifestPath(id string) string { return SnapshotsDir + id + "/" + manifestFile }

// SignaturePath is the key of the signature of a snapshot's manifest.
func SignaturePath(id string) string { return SnapshotsDir + id + "/" + signatureFile }

// SignersPath is the key of the public key beside it, for ssh-keygen.
func SignersPath(id string) string { return SnapshotsDir + id + "/" + signersFile }

// IntentPath is the key of a session's intent.
func IntentPath(id string) string { return IntentsDir + id }

// TombstonePath is the key whose presence says that a snapshot is deleted.
func TombstonePath(id string) string { return DeletedDir + id }

// CondemnedPath is the key of the n-th condemned list, counted from 1.
func CondemnedPath(n uint64) string { return fmt.Sprintf("%s%020d", CondemnedDir, n) }

// ParseCondemnedPath is the reverse of CondemnedPath.
func ParseCondemnedPath(key string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, CondemnedDir), 10, 64)
	if err != nil || n == 0 || CondemnedPath(n) != key {
		return 0, fmt.Errorf("key %.200q is not that of a condemned list", key)
	}
	return n, nil
}

// ParseSnapshotPath splits the key of one of a snapshot's three objects into id
// and file name. Other keys below SnapshotsDir are an error.
func ParseSnapshotPath(key string) (id, file string, err error) {
	id, file, ok := SplitSnapshotPath(key)
	if !ok || !OfSnapshot(file) {
		return "", "", fmt.Errorf("key %.200q is not that of a snapshot's object", key)
	}
	return id, file, nil
}

// SplitSnapshotPath splits a key below the folder of a snapshot into id and the
// rest: the name of one of its three objects, or of a companion.
func SplitSnapshotPath(key string) (id, rest string, ok bool) {
	below, ok := strings.CutPrefix(key, SnapshotsDir)
	if !ok {
		return "", "", false
	}
	id, rest, ok = strings.Cut(below, "/")
	return id, rest, ok && rest != "" && CheckID(id) == nil
}

// OfSnapshot tells whether file is one of the three objects that make a snapshot,
// and no companion.
func OfSnapshot(file string) bool {
	return file == manifestFile || file == signatureFile || file == signersFile
}

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
	k, ok := parseObjectKey(key)
	if !ok {
		return ObjectKey{}, fmt.Errorf("key %.200q is not that of a chunk or an inventory", key)
	}
	return k, nil
}

func parseObjectKey(key string) (ObjectKey, bool) {
	const digits = 2 * len(chunker.Hash{})
	kind, rest, _ := strings.Cut(key, "/")
	group, name, ok := strings.Cut(rest, "/")
	if !ok || len(group) != 2 || len(name) <= digits || name[:2] != group || name[digits] != '.' {
		return ObjectKey{}, false
	}
	hash, err := chunker.ParseHash(name[:digits])
	if err != nil {
		return ObjectKey{}, false
	}
	k := ObjectKey{Kind: kind, Hash: hash, Ext: name[digits+1:]}
	if gen, ext, ok := strings.Cut(k.Ext, "."); ok && gen != "" && gen[0] >= '1' && gen[0] <= '9' {
		k.Generation, err = strconv.ParseUint(gen, 10, 64)
		k.Ext = ext
		if err != nil {
			return ObjectKey{}, false
		}
	}
	switch {
	case kind == KindChunk && (k.Ext == chunker.PacketsExt || k.Ext == chunker.EventsExt):
	case kind == KindInventory && k.Ext == InventoryExt:
	default:
		return ObjectKey{}, false
	}
	return k, true
}
