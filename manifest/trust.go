package manifest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Trust is a parsed allowed_signers file: the keys whose signatures count, as
// `ssh-keygen -Y verify -I pcapsule -n pcapsule` would take them. The zero value
// trusts none.
type Trust struct {
	keys  []trustedKey
	notes []string
}

type trustedKey struct {
	blob          []byte // SSH wire form
	after, before time.Time
	whose         string // for people; "" of a line of the file
}

// Notes are about lines that have no effect though they look as if they had.
func (t *Trust) Notes() []string { return t.notes }

// Trusts tells whether a signature that k made at the time at counts.
func (t *Trust) Trusts(k PublicKey, at time.Time) bool { return t.Check(k, at) == nil }

// ErrOtherTime says that a key counts, but not at the time of the signature.
var ErrOtherTime = errors.New("not at the time of the snapshot")

// Check is Trusts with the reason against it: ErrOtherTime, or that the key is
// unknown.
func (t *Trust) Check(k PublicKey, at time.Time) error {
	_, err := t.Whose(k, at)
	return err
}

// Whose is Check that tells, of a key that AddOf added and no line of the file
// has, whose it is.
func (t *Trust) Whose(k PublicKey, at time.Time) (whose string, err error) {
	err = fmt.Errorf("key %s is not in the trusted allowed_signers", k.Fingerprint())
	blob := k.ssh().Marshal()
	for _, l := range t.keys {
		switch {
		case !bytes.Equal(l.blob, blob):
		case !l.after.IsZero() && at.Before(l.after):
			err = fmt.Errorf("key %s is trusted only from %s on, %w", k.Fingerprint(), l.after.UTC().Format(time.RFC3339), ErrOtherTime)
		case !l.before.IsZero() && at.After(l.before):
			err = fmt.Errorf("key %s is trusted only until %s, %w", k.Fingerprint(), l.before.UTC().Format(time.RFC3339), ErrOtherTime)
		default:
			return l.whose, nil
		}
	}
	return "", err
}

// Add trusts k without limits.
func (t *Trust) Add(k PublicKey) { t.AddOf(k, "") }

// AddOf is Add with whose key k is, for people. The keys of the file come first:
// add them before.
func (t *Trust) AddOf(k PublicKey, whose string) {
	t.keys = append(t.keys, trustedKey{blob: k.ssh().Marshal(), whose: whose})
}

// Join adds what other trusts, with its limits.
func (t *Trust) Join(other *Trust) { t.keys = append(t.keys, other.keys...) }

// JoinOf is Join with whose keys these are.
func (t *Trust) JoinOf(other *Trust, whose string) {
	for _, k := range other.keys {
		k.whose = whose
		t.keys = append(t.keys, k)
	}
}

// Lines are the keys that count as lines of an allowed_signers file, without
// newlines.
func (t *Trust) Lines() []string {
	const stamp = "20060102150405Z"
	var lines []string
	for _, k := range t.keys {
		options := `namespaces="` + Namespace + `"`
		if !k.after.IsZero() {
			options += `,valid-after="` + k.after.UTC().Format(stamp) + `"`
		}
		if !k.before.IsZero() {
			options += `,valid-before="` + k.before.UTC().Format(stamp) + `"`
		}
		lines = append(lines, Principal+" "+options+" "+ssh.KeyAlgoED25519+" "+base64.StdEncoding.EncodeToString(k.blob))
	}
	return lines
}

// Keys are the keys that count, at some time or other, in the order of their lines.
func (t *Trust) Keys() []PublicKey {
	keys := make([]PublicKey, len(t.keys))
	for i, k := range t.keys {
		copy(keys[i][:], k.blob[len(k.blob)-len(keys[i]):])
	}
	return keys
}

// maxTrust is more than any allowed_signers file has, in bytes.
const maxTrust = 4 << 20

// ParseTrust reads an allowed_signers file (ssh-keygen(1), ALLOWED SIGNERS). As
// ssh-keygen does, it passes over lines for other principals or namespaces, and
// over those that it cannot read; of the latter, of certificate authorities and
// of other types of keys it makes a note.
func ParseTrust(b []byte) (*Trust, error) {
	if len(b) > maxTrust || bytes.IndexByte(b, 0) >= 0 {
		return nil, errors.New("this is not an allowed_signers file: want lines of text")
	}
	t := new(Trust)
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if err := t.parseLine(strings.TrimRight(line, "\r\n"), n); err != nil {
			t.notes = append(t.notes, fmt.Sprintf("line %d is passed over: %v", n, err))
		}
	}
	if len(t.keys) == 0 {
		t.notes = append(t.notes, "there is no "+ssh.KeyAlgoED25519+" key for principal "+Principal+" in it")
	}
	return t, nil
}

func (t *Trust) parseLine(line string, n int) error {
	line = strings.TrimLeft(line, " \t")
	if line == "" || line[0] == '#' {
		return nil
	}
	principals, rest, err := word(line)
	if err != nil {
		return err
	}
	if !matchList(Principal, principals) {
		return nil
	}
	var opt signerOptions
	keyType, blob, err := parseKey(rest)
	if err != nil { // no key, so these are options
		options, after, ok := cutOptions(rest)
		if !ok {
			return fmt.Errorf("no key: %w", err)
		}
		if opt, err = parseOptions(options); err != nil {
			return err
		}
		if keyType, blob, err = parseKey(after); err != nil {
			return fmt.Errorf("no key: %w", err)
		}
	}
	switch {
	case opt.authority:
		t.notes = append(t.notes, fmt.Sprintf("line %d is a certificate authority, which pcapsule does not use", n))
	case opt.namespaces != "" && !matchList(Namespace, opt.namespaces):
	case keyType != ssh.KeyAlgoED25519:
		t.notes = append(t.notes, fmt.Sprintf("line %d is a key of type %s; pcapsule signs with %s only", n, keyType, ssh.KeyAlgoED25519))
	default:
		t.keys = append(t.keys, trustedKey{blob: blob, after: opt.after, before: opt.before})
	}
	return nil
}

// word takes the first word of a line, which may be in double quotes.
func word(s string) (first, rest string, err error) {
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		first, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", errors.New("quote without an end")
		}
	} else if i := strings.IndexAny(s, " \t"); i >= 0 {
		first, rest = s[:i], s[i:]
	} else {
		first = s
	}
	rest = strings.TrimLeft(rest, " \t")
	if rest == "" {
		return "", "", fmt.Errorf("nothing after %.80q", first)
	}
	return first, rest, nil
}

// parseKey reads "type base64" at the start of s and checks that both agree.
func parseKey(s string) (keyType string, blob []byte, err error) {
	f := strings.Fields(s)
	if len(f) < 2 {
		return "", nil, fmt.Errorf("want a type and a key, got %.80q", s)
	}
	blob, err = base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return "", nil, err
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return "", nil, err
	}
	if key.Type() != f[0] {
		return "", nil, fmt.Errorf("the key is of type %s, the line says %.40q", key.Type(), f[0])
	}
	return f[0], blob, nil
}

// cutOptions splits s at the first blank outside of quotes.
func cutOptions(s string) (options, rest string, ok bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			quoted = !quoted
		case !quoted && (s[i] == ' ' || s[i] == '\t'):
			return s[:i], strings.TrimLeft(s[i:], " \t"), true
		}
	}
	return "", "", false
}

type signerOptions struct {
	authority     bool
	namespaces    string
	after, before time.Time
}

func parseOptions(s string) (opt signerOptions, err error) {
	for s != "" {
		name, value, rest, err := cutOption(s)
		if err != nil {
			return opt, err
		}
		s = rest
		switch strings.ToLower(name) {
		case "cert-authority":
			opt.authority = true
		case "namespaces":
			if opt.namespaces != "" || value == "" {
				return opt, errors.New("namespaces twice, or empty")
			}
			opt.namespaces = value
		case "valid-after":
			if opt.after, err = setTime(opt.after, value); err != nil {
				return opt, fmt.Errorf("valid-after: %w", err)
			}
		case "valid-before":
			if opt.before, err = setTime(opt.before, value); err != nil {
				return opt, fmt.Errorf("valid-before: %w", err)
			}
		default:
			return opt, fmt.Errorf("unknown option %.80q", name)
		}
	}
	if !opt.after.IsZero() && !opt.before.IsZero() && !opt.after.Before(opt.before) {
		return opt, errors.New("valid-after is not before valid-before")
	}
	return opt, nil
}

// cutOption takes the first option, name or name="value", off a list.
func cutOption(s string) (name, value, rest string, err error) {
	i := strings.IndexAny(s, ",=")
	if i < 0 {
		return s, "", "", nil
	}
	name, rest = s[:i], s[i+1:]
	if s[i] == '=' {
		quoted, ok := strings.CutPrefix(rest, `"`)
		if !ok {
			return "", "", "", fmt.Errorf("option %.80q: want its value in double quotes", name)
		}
		value, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", "", fmt.Errorf("option %.80q: quote without an end", name)
		}
		if rest == "" {
			return name, value, "", nil
		}
		if rest, ok = strings.CutPrefix(rest, ","); !ok {
			return "", "", "", fmt.Errorf("option %.80q: want a comma after it", name)
		}
	}
	if rest == "" {
		return "", "", "", errors.New("options end in a comma")
	}
	return name, value, rest, nil
}

// setTime reads a time as ssh-keygen does: YYYYMMDD, YYYYMMDDHHMM or
// YYYYMMDDHHMMSS, in local time, or in UTC with a Z at the end.
func setTime(old time.Time, s string) (time.Time, error) {
	if !old.IsZero() {
		return old, errors.New("given twice")
	}
	zone := time.Local
	digits, utc := strings.CutSuffix(s, "Z")
	if utc {
		zone = time.UTC
	}
	const layout = "20060102150405"
	switch len(digits) {
	case 8, 12, 14:
	default:
		return old, fmt.Errorf("time %.40q: want YYYYMMDD[HHMM[SS]][Z]", s)
	}
	t, err := time.ParseInLocation(layout[:len(digits)], digits, zone)
	if err != nil {
		return old, fmt.Errorf("time %.40q: want YYYYMMDD[HHMM[SS]][Z]", s)
	}
	return t, nil
}

// matchList tells whether s matches a comma-separated list of patterns with '*'
// and '?', of which none that starts with '!' may match.
func matchList(s, list string) bool {
	found := false
	for p := range strings.SplitSeq(list, ",") {
		p, negated := strings.CutPrefix(p, "!")
		if match(s, p) {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// match tells whether all of s matches pattern. It backs up to the last '*' only,
// so that it is never slow.
func match(s, pattern string) bool {
	i, j, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, mark = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == s[i]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(pattern[j:], "*") == ""
}
