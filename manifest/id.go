package manifest

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Lengths of what people read and type, in bytes.
const (
	MaxName = 63   // of a snapshot: a DNS label, a file name, a column of a table
	MaxNode = 253  // of a node: a DNS name, as in Kubernetes
	MaxText = 1024 // of any other text
)

const (
	idLayout = "20060102T150405.000000Z"
	idRandom = 5 // bytes at the end of an id: two hubs in one microsecond differ
	idLength = len(idLayout) + 1 + 2*idRandom
)

// NewID makes the id of a snapshot that is begun at t: t to the microsecond and
// a random tail from rnd. Ids sort by time as strings.
func NewID(t time.Time, rnd io.Reader) (string, error) {
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return "", fmt.Errorf("make id: the clock says year %d", y)
	}
	var tail [idRandom]byte
	if _, err := io.ReadFull(rnd, tail[:]); err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return t.UTC().Format(idLayout) + "-" + hex.EncodeToString(tail[:]), nil
}

// CheckID tells whether s is an id that NewID could have made.
func CheckID(s string) error {
	_, err := IDTime(s)
	return err
}

// IDTime is the time in an id.
func IDTime(s string) (time.Time, error) {
	bad := fmt.Errorf("%.80q is not a snapshot id: want the form 20261123T013614.123456Z-0123456789", s)
	if len(s) != idLength || s[len(idLayout)] != '-' {
		return time.Time{}, bad
	}
	for _, c := range []byte(s[len(idLayout)+1:]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return time.Time{}, bad
		}
	}
	stamp := s[:len(idLayout)]
	t, err := time.Parse(idLayout, stamp)
	if err != nil || t.Year() < 1970 || t.Format(idLayout) != stamp {
		return time.Time{}, bad
	}
	return t, nil
}

// CheckName tells whether s can be the name of a snapshot: 1 to 63 letters,
// digits, '.', '_' and '-' of ASCII, the first a letter or digit, and not the
// form of an id. Such a name needs no quotes in a shell and no escapes in a URL,
// and reads the same everywhere.
func CheckName(s string) error {
	if err := checkWord("name", s, MaxName); err != nil {
		return err
	}
	if CheckID(s) == nil {
		return fmt.Errorf("name %q has the form of a snapshot id: choose another", s)
	}
	return nil
}

// CheckNode tells whether s can be the name of a node: as CheckName, up to 253
// bytes.
func CheckNode(s string) error { return checkWord("node name", s, MaxNode) }

func checkWord(what, s string, limit int) error {
	if s == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if len(s) > limit {
		return fmt.Errorf("%s %.40q… is too long: at most %d characters", what, s, limit)
	}
	for i, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		case i == 0 && (c == '.' || c == '_' || c == '-'):
			return fmt.Errorf("%s %q starts with %q: start with a letter or digit", what, s, c)
		default:
			return fmt.Errorf("%s %q holds %q: use letters, digits, '.', '_' and '-'", what, s, c)
		}
	}
	return nil
}

// checkText tells whether s is safe to print on a terminal: UTF-8, every
// character visible or a plain space, at most MaxText bytes.
func checkText(what, s string) error { return checkTextTo(what, s, MaxText) }

// checkTextTo is checkText for a text of at most limit bytes.
func checkTextTo(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s is %d bytes long: at most %d", what, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q is not UTF-8", what, s)
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("%s %q holds the unprintable %q", what, s, c)
		}
	}
	return nil
}

// Clean makes s a text that a manifest can hold: what is not printable becomes
// U+FFFD, what is too long is cut. It is for text of foreign origin, such as
// interface names in imported captures and errors of other programs.
func Clean(s string) string { return cleanTo(s, MaxText) }

// cleanTo is Clean for a text of at most limit bytes.
func cleanTo(s string, limit int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return utf8.RuneError
	}, s)
	if len(s) <= limit {
		return s
	}
	n := limit
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
