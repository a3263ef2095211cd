package manifest

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"pcapsule/chunker"
)

func TestObjectKeys(t *testing.T) {
	hash := chunker.HashOf(nil)
	for _, k := range []ObjectKey{
		{KindChunk, hash, 0, chunker.PacketsExt},
		{KindChunk, hash, 1, chunker.EventsExt},
		{KindInventory, hash, 1<<64 - 1, InventoryExt},
	} {
		got, err := ParseObjectKey(k.String())
		if err != nil || got != k {
			t.Errorf("%s: got %+v, %v", k, got, err)
		}
	}
	h := hash.String()
	for _, bad := range []string{
		"", "/", "chunks", "chunks/" + h[:2] + "/" + h,
		"chunks/00/" + h + ".pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".0.pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".01.pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".-1.pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".18446744073709551616.pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + "..pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + "pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".ndjson",
		"chunks/" + h[:2] + "/" + h + ".PCAPNG.lz4",
		"inventories/" + h[:2] + "/" + h + ".pcapng.lz4",
		"flows/" + h[:2] + "/" + h + ".ndjson",
		"../chunks/" + h[:2] + "/" + h + ".pcapng.lz4",
		"chunks/" + h[:2] + "/" + h + ".pcapng.lz4/",
		"chunks/" + strings.ToUpper(h[:2]) + "/" + strings.ToUpper(h) + ".pcapng.lz4",
	} {
		if k, err := ParseObjectKey(bad); err == nil {
			t.Errorf("%q: got %+v", bad, k)
		}
	}
}

func FuzzParseObjectKey(f *testing.F) {
	f.Add(testChunkKey(1, chunker.PacketsExt))
	f.Add(ObjectKey{KindInventory, chunker.HashOf(nil), 7, InventoryExt}.String())
	f.Fuzz(func(t *testing.T, key string) {
		if k, err := ParseObjectKey(key); err == nil && k.String() != key {
			t.Errorf("%q reads as %q", key, k)
		}
	})
}

func TestPaths(t *testing.T) {
	for got, want := range map[string]string{
		ManifestPath(testID):  "snapshots/" + testID + "/manifest.json",
		SignaturePath(testID): "snapshots/" + testID + "/manifest.json.sig",
		SignersPath(testID):   "snapshots/" + testID + "/allowed_signers",
		IntentPath(testID):    "intents/" + testID,
		TombstonePath(testID): "deleted/" + testID,
		CondemnedPath(42):     "gc/00000000000000000042",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if n, err := ParseCondemnedPath("gc/00000000000000000042"); n != 42 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	for _, bad := range []string{"gc/42", "gc/00000000000000000000", "00000000000000000042", "gc/0000000000000000004x"} {
		if _, err := ParseCondemnedPath(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if id, file, err := ParseSnapshotPath(SignersPath(testID)); id != testID || file != "allowed_signers" || err != nil {
		t.Errorf("got %q, %q, %v", id, file, err)
	}
	for _, bad := range []string{"snapshots/x/manifest.json", "snapshots/" + testID, "snapshots/" + testID + "/x", ManifestPath(testID) + "/"} {
		if _, _, err := ParseSnapshotPath(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestNewID(t *testing.T) {
	id, err := NewID(testTime, bytes.NewReader([]byte{0x01, 0x23, 0x45, 0x67, 0x89}))
	if id != testID || err != nil {
		t.Errorf("got %q, %v; want %q", id, err, testID)
	}
	at, err := IDTime(id)
	if want := testTime.Truncate(time.Microsecond); !at.Equal(want) || err != nil {
		t.Errorf("time of the id is %v, %v; want %v", at, err, want)
	}
	var ids []string
	for i := range 1000 {
		id, err := NewID(testTime.Add(time.Duration(i*i)*time.Millisecond), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 1000 {
		t.Error("ids do not sort by time, or one came twice")
	}
	if _, err := NewID(testTime, iotest.ErrReader(iotest.ErrTimeout)); err == nil {
		t.Error("an id without randomness")
	}
	if _, err := NewID(time.Unix(-1e11, 0), rand.Reader); err == nil {
		t.Error("an id of a year before 1970")
	}
	for _, bad := range []string{
		"", "x", testID + "0", testID[1:], strings.Replace(testID, "-0", "-A", 1), strings.Replace(testID, "Z-", "Z.", 1),
		strings.Replace(testID, "20261123", "20261323", 1), strings.Replace(testID, ".1", ",1", 1),
		strings.Replace(testID, "0123456789", "012345678g", 1), strings.Replace(testID, "20261123T01", "19691123T01", 1),
	} {
		if CheckID(bad) == nil {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "7", "outage", "Outage-2026.11.23_b", strings.Repeat("n", MaxName)} {
		if err := CheckName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "-x", ".x", "_x", "a b", "a/b", `a\b`, "ä", "a\x00", "a\n", "a\u202e",
		strings.Repeat("n", MaxName+1), testID,
	} {
		if CheckName(bad) == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
	if err := CheckNode("ip-10-0-0-1.eu-central-1.compute.internal"); err != nil {
		t.Error(err)
	}
	if CheckNode(strings.Repeat("n", MaxNode+1)) == nil {
		t.Error("a node of 254 bytes")
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"eth0":                               "eth0",
		"\x1b[2Jeth0\n":                      "\ufffd[2Jeth0\ufffd",
		"\xff\xfe":                           "\ufffd\ufffd",
		strings.Repeat("ä", MaxText):         strings.Repeat("ä", MaxText/2),
		"x" + strings.Repeat("ä", MaxText/2): "x" + strings.Repeat("ä", MaxText/2-1),
	} {
		got := Clean(in)
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
		if err := checkText("text", got); err != nil || !utf8.ValidString(got) || Clean(got) != got {
			t.Errorf("%q: %v", got, err)
		}
	}
}
