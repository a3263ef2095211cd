package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"pcapsule/store"
)

// Run holds a back end to the contract of store.Store. Each call of open returns
// an empty store, ready for writing.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Taken", testTaken},
		{"Race", testRace},
		{"WrongBody", testWrongBody},
		{"StatTells", testStatTells},
		{"Range", testRange},
		{"Missing", testMissing},
		{"BadKey", testBadKey},
		{"ListOrder", testListOrder},
		{"ListMany", testListMany},
		{"Cancel", testCancel},
		{"Probe", testProbe},
		{"Grant", testGrant},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Put stores data under key, or ends the test.
func Put(t testing.TB, s store.Store, key string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, store.Bytes(data)); err != nil {
		t.Fatalf("Put(%s): %v", key, err)
	}
}

// Read returns a whole object, or ends the test.
func Read(t testing.TB, s store.Store, key string) []byte {
	t.Helper()
	return readRange(t, s, key, 0, -1)
}

func readRange(t testing.TB, s store.Store, key string, off, n int64) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), key, off, n)
	if err != nil {
		t.Fatalf("Get(%s, %d, %d): %v", key, off, n, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return data
}

// Keys lists what starts with prefix, or ends the test.
func Keys(t testing.TB, s store.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List(%q): %v", prefix, err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// random returns n bytes that do not repeat.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return b
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

func testRoundTrip(t *testing.T, s store.Store) {
	for _, size := range []int{0, 1, 4095, 1 << 20, 9<<20 + 3} {
		key, data := fmt.Sprintf("chunks/%02x/object-%d", size%256, size), random(size)
		Put(t, s, key, data)
		if got := Read(t, s, key); !bytes.Equal(got, data) {
			t.Errorf("%s: read other bytes than were put", key)
		}
		info, err := s.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if info.Key != key || info.Size != int64(size) || info.Modified.IsZero() {
			t.Errorf("Stat(%s) = %+v", key, info)
		}
		for info, err := range s.List(t.Context(), key) {
			if err != nil || info.Key != key || info.Size != int64(size) || info.Modified.IsZero() {
				t.Errorf("List(%s): %+v, %v", key, info, err)
			}
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if keys := Keys(t, s, ""); len(keys) != 0 {
			t.Errorf("after Delete there is %q", keys)
		}
		_, err = s.Stat(t.Context(), key)
		wantError(t, "Stat after Delete", err, store.ErrNotExist)
		Put(t, s, key, data) // the same bytes may come back
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

func testTaken(t *testing.T, s store.Store) {
	first := []byte("the first")
	Put(t, s, "a/b", first)
	for _, second := range [][]byte{[]byte("another"), first, nil} {
		wantError(t, "Put to a taken key", s.Put(t.Context(), "a/b", store.Bytes(second)), store.ErrExist)
	}
	if got := Read(t, s, "a/b"); !bytes.Equal(got, first) {
		t.Errorf("the first object became %q", got)
	}
	if diff := cmp.Diff([]string{"a/b"}, Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

func testRace(t *testing.T, s store.Store) {
	for round := range 4 {
		key := fmt.Sprintf("race/%d/object", round)
		bodies := make([][]byte, 12)
		results := make([]error, len(bodies))
		var writers sync.WaitGroup
		for i := range bodies {
			bodies[i] = fmt.Appendf(nil, "body %d", i)
			writers.Go(func() { results[i] = s.Put(t.Context(), key, store.Bytes(bodies[i])) })
		}
		writers.Wait()
		winner := -1
		for i, err := range results {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("round %d: both %d and %d won", round, winner, i)
			case err == nil:
				winner = i
			default:
				wantError(t, "a loser's Put", err, store.ErrExist)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		if got := Read(t, s, key); !bytes.Equal(got, bodies[winner]) {
			t.Errorf("round %d: %d won, and the object is %q", round, winner, got)
		}
	}
}

func testWrongBody(t *testing.T, s store.Store) {
	data := random(300 << 10)
	wrong := store.Bytes(data)
	wrong.SHA256[0] ^= 1
	wantError(t, "Put of bytes other than announced", s.Put(t.Context(), "a/wrong", wrong), store.ErrChecksum)
	short := store.Bytes(data)
	short.ReaderAt = bytes.NewReader(data[:len(data)-1])
	if err := s.Put(t.Context(), "a/short", short); err == nil {
		t.Error("Put of a body shorter than announced succeeded")
	}
	failed := errors.New("disk of the body failed")
	broken := store.Bytes(data)
	broken.ReaderAt = brokenReader{failed}
	if err := s.Put(t.Context(), "a/broken", broken); err == nil {
		t.Error("Put of a body that cannot be read succeeded")
	}
	if keys := Keys(t, s, ""); len(keys) != 0 {
		t.Errorf("there is %q", keys)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }

// testStatTells: the SHA-256 is that of the bytes, or none; the version stays the
// same and, after other bytes came to be there, does not.
func testStatTells(t *testing.T, s store.Store) {
	one, two := []byte("some bytes"), []byte("other ones")
	stat := func(data []byte) store.Info {
		t.Helper()
		info, err := s.Stat(t.Context(), "chunks/ab/cd")
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); info.SHA256 != nil && !bytes.Equal(info.SHA256, sum[:]) {
			t.Errorf("Stat: SHA-256 %x of bytes with %x", info.SHA256, sum)
		}
		return info
	}
	Put(t, s, "chunks/ab/cd", one)
	first := stat(one)
	if again := stat(one); again.Version != first.Version {
		t.Errorf("Stat: version %q, then %q of the same object", first.Version, again.Version)
	}
	if _, ok := s.(*Memory); ok {
		return // it fails the test when a name is used for other bytes
	}
	if err := s.Delete(t.Context(), "chunks/ab/cd"); err != nil {
		t.Fatal(err)
	}
	Put(t, s, "chunks/ab/cd", two)
	if other := stat(two); first.Version == "" || other.Version == first.Version {
		t.Errorf("Stat: version %q, then %q of other bytes", first.Version, other.Version)
	}
}

func testRange(t *testing.T, s store.Store) {
	data := random(100_000)
	Put(t, s, "object", data)
	Put(t, s, "empty", nil)
	for _, c := range []struct{ off, n, from, to int64 }{
		{0, -1, 0, 100_000},
		{0, 0, 0, 0},
		{0, 1, 0, 1},
		{0, 100_001, 0, 100_000},
		{99_999, -1, 99_999, 100_000},
		{99_999, 10, 99_999, 100_000},
		{50_000, 10_000, 50_000, 60_000},
		{50_000, 0, 0, 0},
		{100_000, -1, 0, 0},
		{100_000, 5, 0, 0},
		{200_000, -1, 0, 0},
		{1, 1<<63 - 1, 1, 100_000},
	} {
		if got := readRange(t, s, "object", c.off, c.n); !bytes.Equal(got, data[c.from:c.to]) {
			t.Errorf("Get(%d, %d): %d bytes, want %d to %d", c.off, c.n, len(got), c.from, c.to)
		}
		if got := readRange(t, s, "empty", c.off, c.n); len(got) != 0 {
			t.Errorf("Get(%d, %d) of an empty object: %d bytes", c.off, c.n, len(got))
		}
	}
	if _, err := s.Get(t.Context(), "object", -1, 5); err == nil {
		t.Error("Get from a negative offset succeeded")
	}
	if _, err := store.ReadAll(t.Context(), s, "object", 99_999); err == nil {
		t.Error("ReadAll of more than its limit succeeded")
	}
	for key, want := range map[string][]byte{"object": data, "empty": {}} {
		got, err := store.ReadAll(t.Context(), s, key, int64(len(want)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("ReadAll(%s): %d bytes, %v", key, len(got), err)
		}
	}
}

func testMissing(t *testing.T, s store.Store) {
	Put(t, s, "a/b/c", []byte("x"))
	for _, key := range []string{"a", "a/b", "a/b/d", "a/b/c/d", "z", "z/z/z"} {
		for _, n := range []int64{-1, 0, 10} {
			if r, err := s.Get(t.Context(), key, 0, n); err == nil {
				r.Close()
				t.Errorf("Get(%s, 0, %d) succeeded", key, n)
			} else {
				wantError(t, "Get "+key, err, store.ErrNotExist)
			}
		}
		_, err := s.Stat(t.Context(), key)
		wantError(t, "Stat "+key, err, store.ErrNotExist)
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%s): %v", key, err)
		}
	}
	if diff := cmp.Diff([]string{"a/b/c"}, Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

func testBadKey(t *testing.T, s store.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", ".tmp/a", "a/.b", "a b", "a\\b", "a:b", "ä",
		"a\x00b", "a\nb", strings.Repeat("a", 513),
	} {
		if err := s.Put(t.Context(), key, store.Bytes(nil)); err == nil {
			t.Errorf("Put(%q) succeeded", key)
		}
		if r, err := s.Get(t.Context(), key, 0, -1); err == nil {
			r.Close()
			t.Errorf("Get(%q) succeeded", key)
		}
		if _, err := s.Stat(t.Context(), key); err == nil {
			t.Errorf("Stat(%q) succeeded", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete(%q) succeeded", key)
		}
	}
	if keys := Keys(t, s, ""); len(keys) != 0 {
		t.Errorf("there is %q", keys)
	}
}

func testListOrder(t *testing.T, s store.Store) {
	keys := []string{
		"a+b/c", "a+c", "a-b", "a-b.c/d", "a.b", "a.b.c", "a/b", "a/b.c", "aa", "a/c/d", "a/c/e/f", "a/c+", "a/c0",
		"a0/b", "A/b", "a_b", "b", "c/d/e/f/g/h",
	}
	for _, key := range keys {
		Put(t, s, key, []byte(key))
	}
	slices.Sort(keys)
	for _, prefix := range []string{
		"", "a", "a/", "a/c", "a/c/", "a/c/e/", "a/b.", "a.", "a-", "A", "c/d/e/f/g/h", "c/d/e/f/g/h/", "x", "a/x/y",
	} {
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		if diff := cmp.Diff(want, Keys(t, s, prefix)); diff != "" {
			t.Errorf("List(%q): -want +got\n%s", prefix, diff)
		}
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Key != keys[0] {
			t.Errorf("the first of List is %q, %v", info.Key, err)
		}
		break // stops without harm
	}
}

// testListMany lists more than S3 gives in one answer.
func testListMany(t *testing.T, s store.Store) {
	const n = 1003
	var want []string
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		key := fmt.Sprintf("many/%02x/%04d", i%5, i)
		want = append(want, key)
		g.Go(func() error { return s.Put(t.Context(), key, store.Bytes([]byte(key))) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, Keys(t, s, "many/")); diff != "" {
		t.Error(diff)
	}
}

func testCancel(t *testing.T, s store.Store) {
	Put(t, s, "a", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "Put", s.Put(ctx, "b", store.Bytes(nil)), context.Canceled)
	_, err := s.Get(ctx, "a", 0, -1)
	wantError(t, "Get", err, context.Canceled)
	_, err = s.Stat(ctx, "a")
	wantError(t, "Stat", err, context.Canceled)
	wantError(t, "Delete", s.Delete(ctx, "a"), context.Canceled)
	var last error
	for _, err := range s.List(ctx, "") {
		last = err
	}
	wantError(t, "List", last, context.Canceled)
	if diff := cmp.Diff([]string{"a"}, Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

func testProbe(t *testing.T, s store.Store) {
	Put(t, s, "a", []byte("x"))
	if _, err := store.Probe(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, Keys(t, s, "")); diff != "" {
		t.Errorf("the probe left something: %s", diff)
	}
}
