package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"pcapsule/chunker"
)

// Limits of a record. An object of the API has 1.5 MiB at most, with what is
// never recorded of it.
const (
	MaxRecord = chunker.MaxEvent // bytes of a line, without its newline
	maxValues = 1 << 16          // commas in a line, which bound what it decodes to
)

// ErrVersion is wrapped by the error for a keyframe of a later version than this
// package reads.
var ErrVersion = errors.New("records of a later version")

// Body is what a record says after its time and op, as it stands in a line. It
// is empty when that is nothing.
func (r *Record) Body() ([]byte, error) {
	plain := *r
	plain.Time, plain.Op = 0, ""
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(&plain); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	b := bytes.TrimPrefix(buf.Bytes(), []byte(`{"ts":"0","op":""`))
	b = bytes.TrimPrefix(b, []byte(","))
	return bytes.TrimSuffix(b, []byte("}\n")), nil
}

// AppendLine appends a line, without its newline, that has body as its record's
// Body. It fails when no reader would take the line.
func AppendLine(dst []byte, at int64, op string, body []byte) ([]byte, error) {
	if at < 0 {
		return dst, fmt.Errorf("record at %d ns: times are from 1970 on", at)
	}
	start := len(dst)
	dst = strconv.AppendInt(append(dst, `{"ts":"`...), at, 10)
	dst = append(append(dst, `","op":"`...), op...)
	dst = append(dst, '"')
	if len(body) > 0 {
		dst = append(append(dst, ','), body...)
	}
	dst = append(dst, '}')
	if err := checkSize(dst[start:]); err != nil {
		return dst[:start], err
	}
	return dst, nil
}

// Append appends r as a line, without its newline.
func Append(dst []byte, r *Record) ([]byte, error) {
	if err := r.validate(); err != nil {
		return dst, err
	}
	body, err := r.Body()
	if err != nil {
		return dst, err
	}
	return AppendLine(dst, int64(r.Time), r.Op, body)
}

// Decode reads a line, without its newline, which anyone may have written. What
// a later version may add is no error: an unknown member is skipped, and of an
// unknown op, or of a kind of object that is not known, only Time and Op are
// there. A keyframe whose version is later is ErrVersion.
func Decode(line []byte) (Record, error) {
	var r Record
	if err := checkSize(line); err != nil {
		return r, err
	}
	if !utf8.Valid(line) {
		return r, errors.New("read record: it is not UTF-8")
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("read record %.60q: %w", line, err)
	}
	if !known(r.Op) {
		return Record{Time: r.Time, Op: r.Op}, nil
	}
	if err := r.validate(); err != nil {
		return Record{}, fmt.Errorf("read record %.60q: %w", line, err)
	}
	return r, nil
}

// checkSize bounds what a line takes, as text and decoded.
func checkSize(line []byte) error {
	if len(line) > MaxRecord {
		return fmt.Errorf("record of %d bytes is longer than %d", len(line), MaxRecord)
	}
	if n := bytes.Count(line, []byte{','}); n > maxValues {
		return fmt.Errorf("record has %d commas, and %d are the most", n, maxValues)
	}
	return nil
}

func known(op string) bool {
	switch op {
	case OpKeyframe, OpState, OpComplete, OpSet, OpGone, OpEvent, OpAlive, OpGap:
		return true
	}
	return false
}

// Meta is that of the record's object; nil when it has none.
func (r *Record) Meta() *Meta {
	switch {
	case r.Pod != nil:
		return &r.Pod.Meta
	case r.Service != nil:
		return &r.Service.Meta
	case r.Endpoints != nil:
		return &r.Endpoints.Meta
	case r.Node != nil:
		return &r.Node.Meta
	case r.Namespace != nil:
		return &r.Namespace.Meta
	case r.Workload != nil:
		return &r.Workload.Meta
	case r.Event != nil:
		return &r.Event.Meta
	}
	return nil
}

// validate holds r against FORMAT.md.
func (r *Record) validate() error {
	if r.Time < 0 {
		return fmt.Errorf("its time is %d, before 1970", r.Time)
	}
	objects := 0
	for _, there := range []bool{
		r.Pod != nil, r.Service != nil, r.Endpoints != nil, r.Node != nil, r.Namespace != nil, r.Workload != nil,
	} {
		if there {
			objects++
		}
	}
	switch r.Op {
	case OpKeyframe:
		switch {
		case r.Keyframe == nil:
			return errors.New("a keyframe does not say who recorded it")
		case r.Keyframe.Version > Version:
			return fmt.Errorf("%w: %d, and this program reads %d (use a newer one)", ErrVersion, r.Keyframe.Version, Version)
		case r.Keyframe.Version < 1:
			return fmt.Errorf("its version is %d", r.Keyframe.Version)
		case r.Keyframe.Clock.Error < 0:
			return fmt.Errorf("its clock is known to within %d", r.Keyframe.Clock.Error)
		}
	case OpComplete:
		if r.Objects < 0 {
			return fmt.Errorf("it counts %d objects", r.Objects)
		}
	case OpState, OpSet, OpGone:
		if objects > 1 || r.Event != nil {
			return errors.New("it has more than one object")
		}
	case OpEvent:
		if r.Event == nil || objects > 0 {
			return errors.New("it is an event and has none, or more than that")
		}
	case OpGap:
		if r.Gap == nil || r.Gap.From > r.Time {
			return errors.New("a gap has no beginning before its end")
		}
	case OpAlive:
	default:
		return fmt.Errorf("its op %.40q is unknown", r.Op)
	}
	if m := r.Meta(); m != nil && m.UID == "" {
		return errors.New("its object has no uid")
	}
	for _, t := range r.times() {
		if !t.IsZero() && !Representable(t) {
			return fmt.Errorf("its time %s is out of range", t.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// Representable tells whether t can be told in nanoseconds since 1970, as the
// times of packets are. A record has no other times.
func Representable(t time.Time) bool {
	return t.Unix() >= 0 && t.Unix() < math.MaxInt64/int64(time.Second)
}

// times are all that r's object has.
func (r *Record) times() []time.Time {
	m := r.Meta()
	if m == nil {
		return nil
	}
	list := []time.Time{m.Created, m.Deleted}
	if p := r.Pod; p != nil {
		list = append(list, p.Started, p.Sandboxed)
		for _, c := range p.Containers {
			list = append(list, c.Started, c.Finished)
			if c.Last != nil {
				list = append(list, c.Last.Started, c.Last.Finished)
			}
		}
	}
	if e := r.Event; e != nil {
		list = append(list, e.First, e.Last)
	}
	return list
}
