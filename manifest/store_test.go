package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStoreGolden(t *testing.T) {
	b, err := Store{WriteRequires: []string{"hold", "log"}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "store.json", b)
	s, err := DecodeStore(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"hold", "log"}, s.Unknown()); diff != "" {
		t.Error(diff)
	}
}

func TestStoreDecode(t *testing.T) {
	const head = `"format":"pcapsule.store","version":1`
	for text, want := range map[string][]string{
		`{` + head + `}`:                                                 nil,
		`{` + head + `,"write_requires":[]}`:                             nil,
		`{` + head + `,"write_requires":["a","b-2"]}`:                    {"a", "b-2"},
		"\n {" + head + `,"later":{"x":[1]},"write_requires":[]}` + "\n": nil,
	} {
		s, err := DecodeStore([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, s.Unknown()); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for _, text := range []string{
		"", "x", "null", "[]", `""`, "{}", "\xef\xbb\xbf{" + head + "}", "{" + head + "}{}", "{" + head,
		`{"format":"pcapsule.manifest","version":1}`,
		`{"format":"pcapsule.store"}`,
		`{"format":"pcapsule.store","version":0}`,
		`{"format":"pcapsule.store","version":2}`,
		`{"format":"pcapsule.store","version":"1"}`,
		`{"format":["pcapsule.store"],"version":1}`,
		`{` + head + `,"version":1}`,
		`{` + head + `,"write_requires":[],"write_requires":["hold"]}`,
		`{` + head + `,"Write_requires":["hold"]}`,
		`{` + head + `,"write_requires":null}`,
		`{` + head + `,"write_requires":"hold"}`,
		`{` + head + `,"write_requires":{"hold":true}}`,
		`{` + head + `,"write_requires":[1]}`,
		`{` + head + `,"write_requires":[null]}`,
		`{` + head + `,"write_requires":[["hold"]]}`,
		`{` + head + `,"write_requires":[""]}`,
		`{` + head + `,"write_requires":["Hold"]}`,
		`{` + head + `,"write_requires":["a b"]}`,
		`{` + head + `,"write_requires":["` + strings.Repeat("a", 33) + `"]}`,
		`{` + head + `,"write_requires":["a"` + strings.Repeat(`,"a"`, maxRequired) + `]}`,
		`{` + head + `}` + strings.Repeat(" ", MaxStore),
		"{" + head + ",\"later\":\"\xff\"}",
	} {
		if s, err := DecodeStore([]byte(text)); err == nil {
			t.Errorf("%.120s: %+v", text, s)
		}
	}
}

func FuzzDecodeStore(f *testing.F) {
	f.Add([]byte(`{"format":"pcapsule.store","version":1,"write_requires":["hold"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeStore(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if s2, err := DecodeStore(again); err != nil || fmt.Sprint(s2.WriteRequires) != fmt.Sprint(s.WriteRequires) {
			t.Errorf("%q becomes %q: %v", b, again, err)
		}
	})
}
