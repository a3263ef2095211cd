package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// MaxValues bounds the objects and arrays in one JSON document, so that a few
// megabytes of "{}" cannot become gigabytes of structs. A manifest of 5,000
// nodes with 60 interfaces each has 300,000.
const MaxValues = 1 << 19

// maxDepth bounds nesting. A manifest needs 6.
const maxDepth = 32

// unmarshal decodes one JSON document more strictly than encoding/json: valid
// UTF-8, no member twice, none that only differs in case, no null, nothing after
// the value. Unknown members are ignored. So two readers cannot see two
// different documents in the same bytes.
func unmarshal(b []byte, v any) error {
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	if err := scan(b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// marshal is indented JSON with a newline at the end.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return buf.Bytes(), err
}

// level is one open object or array of scan.
type level struct {
	object bool
	key    bool     // of an object: the next string is a member's name
	names  [][]byte // seen so far
}

// scan finds what encoding/json lets pass. It leaves syntax to json.Valid, which
// it calls first, and so only has to find strings, brackets and nulls.
func scan(b []byte) error {
	if !json.Valid(b) {
		var v json.RawMessage
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		return errors.New("not JSON")
	}
	var stack []level
	values := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			if values++; values > MaxValues {
				return fmt.Errorf("more than %d objects and arrays", MaxValues)
			}
			if len(stack) == maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
			stack = append(stack, level{object: b[i] == '{', key: b[i] == '{'})
		case '}', ']':
			stack = stack[:len(stack)-1]
		case ',':
			top := &stack[len(stack)-1]
			top.key = top.object
		case 'n':
			return errors.New("holds null, which is used nowhere")
		case '"':
			start := i + 1
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if len(stack) == 0 || !stack[len(stack)-1].key {
				continue
			}
			if err := stack[len(stack)-1].add(b[start:i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxMembers bounds the members of one object, whose names are compared pairwise.
const maxMembers = 64

func (l *level) add(name []byte) error {
	l.key = false
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("member %.80q: names are lower-case letters, digits and '_'", name)
		}
	}
	if slices.ContainsFunc(l.names, func(n []byte) bool { return bytes.Equal(n, name) }) {
		return fmt.Errorf("member %q twice in one object", name)
	}
	if len(l.names) == maxMembers {
		return fmt.Errorf("more than %d members in one object", maxMembers)
	}
	l.names = append(l.names, name)
	return nil
}
