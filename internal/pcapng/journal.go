package pcapng

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// A Field of a journal entry. Names are upper-case letters, digits and '_'.
type Field struct {
	Name, Value string
}

// JournalTime is the field that tells when an entry was made: microseconds since
// the Unix epoch. Readers show an entry at this time.
const JournalTime = "__REALTIME_TIMESTAMP"

// MaxJournal is the length of the longest journal block that AppendJournal
// writes: the most that Wireshark takes for one row.
const MaxJournal = 256 << 10

// maxField is how long a field's value may be, in bytes.
const maxField = 32 << 10

// AppendJournal appends a systemd journal export block: one entry of that time
// and these fields. A value that is too long is cut off between characters, and
// fields that do not fit into the block any more are left out.
func AppendJournal(dst []byte, micros int64, fields []Field) []byte {
	start := len(dst)
	dst = begin(dst, BlockJournal)
	text := len(dst)
	dst = append(dst, JournalTime+"="...)
	dst = strconv.AppendInt(dst, micros, 10)
	dst = append(dst, '\n')
	for _, f := range fields {
		value := cut(f.Value, maxField)
		if len(dst)-start+len(f.Name)+len(value)+32 > MaxJournal {
			break
		}
		dst = append(dst, f.Name...)
		if plainText(value) {
			dst = append(append(append(dst, '='), value...), '\n')
			continue
		}
		dst = append(dst, '\n')
		dst = binary.LittleEndian.AppendUint64(dst, uint64(len(value)))
		dst = append(append(dst, value...), '\n')
	}
	return finish(appendPadding(dst, len(dst)-text), start)
}

// plainText tells whether a value may stand after '=', as systemd decides it.
// All others are preceded by their length.
func plainText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// ParseJournal reads a systemd journal export block of one entry. The time,
// where there is one, is among the fields.
func ParseJournal(block []byte) ([]Field, error) {
	b, err := body(block, BlockJournal, 0)
	if err != nil {
		return nil, err
	}
	var fields []Field
	for len(b) > 0 && b[0] != 0 && b[0] != '\n' {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			return nil, malformed("a journal field without an end")
		}
		line := b[:end]
		b = b[end+1:]
		if name, value, ok := bytes.Cut(line, []byte{'='}); ok {
			fields = append(fields, Field{string(name), string(value)})
			continue
		}
		if len(b) < 8 {
			return nil, malformed("a journal field without a length")
		}
		n := binary.LittleEndian.Uint64(b)
		b = b[8:]
		if n >= uint64(len(b)) || b[n] != '\n' {
			return nil, malformed("a journal field of %d bytes ends after its block", n)
		}
		fields = append(fields, Field{string(line), string(b[:n])})
		b = b[n+1:]
	}
	for _, c := range b {
		if c != 0 && c != '\n' {
			return nil, malformed("a journal block with more than one entry")
		}
	}
	return fields, nil
}
