package chunker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Event adds an event: a JSON object on one line, without the newline, whose
// first member is "ts" with time in nanoseconds as a decimal string. Its errors
// are those of Record.
func (w *Writer) Event(time int64, line []byte) error {
	if err := w.checkEvent(time, line); err != nil {
		return err
	}
	n := len(line) + 1
	if err := w.admit(time, n); err != nil {
		return err
	}
	w.makeRoom(n)
	w.raw = append(append(w.raw, line...), '\n')
	w.splitLong()
	w.count(time)
	return w.frame.err
}

// checkEvent tells whether line can be in any events chunk.
func (w *Writer) checkEvent(time int64, line []byte) error {
	if w.stream == Packets {
		return fmt.Errorf("write an event into a chunk of stream %s: it holds packets", w.stream)
	}
	if len(line) > MaxEvent {
		return fmt.Errorf("event of %d bytes: %w (%d)", len(line), ErrTooLong, MaxEvent)
	}
	if time < 0 {
		return fmt.Errorf("event at %d ns: %w: before 1970", time, ErrOrder)
	}
	t, err := eventTime(line)
	if err == nil && t != time {
		err = fmt.Errorf("its time is %d", t)
	}
	if err == nil && isLost(line) {
		err = fmt.Errorf(`a second member "lost" is kept for the chunk's own last line`)
	}
	if err != nil {
		return fmt.Errorf("event at %d ns, %.60q: %w", time, line, err)
	}
	return nil
}

// The beginning of every event, and of the line that may follow the last.
const (
	tsMember   = `{"ts":"`
	lostMember = `","lost":"`
)

// eventTime checks that line is an event and reads its time.
func eventTime(line []byte) (int64, error) {
	if len(line) < len(tsMember) || string(line[:len(tsMember)]) != tsMember {
		return 0, fmt.Errorf("want a JSON object that starts with %s", tsMember)
	}
	digits := line[len(tsMember):]
	n := 0
	for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
		n++
	}
	rest := digits[n:]
	t, err := strconv.ParseInt(string(digits[:n]), 10, 64)
	if err != nil || (n > 1 && digits[0] == '0') || len(rest) < 2 || rest[0] != '"' || (rest[1] != ',' && rest[1] != '}') {
		return 0, fmt.Errorf("want nanoseconds in decimal after %s", tsMember)
	}
	for _, c := range line {
		if c == '\n' {
			return 0, fmt.Errorf("want one line")
		}
	}
	if !json.Valid(line) {
		return 0, fmt.Errorf("want valid JSON")
	}
	return t, nil
}

func appendLost(dst []byte, time int64, lost uint64) []byte {
	dst = strconv.AppendInt(append(dst, tsMember...), time, 10)
	dst = strconv.AppendUint(append(dst, lostMember...), lost, 10)
	return append(dst, "\"}\n"...)
}

// isLost tells whether an event's second member is "lost", with a string.
func isLost(line []byte) bool {
	rest := line[len(tsMember):]
	for len(rest) > 0 && rest[0] != '"' {
		rest = rest[1:]
	}
	return len(rest) >= len(lostMember) && string(rest[:len(lostMember)]) == lostMember
}

// events checks the lines in buf[at:] and leaves the events among them in b.Buf,
// which is buf[:at] before.
func (r *Reader) events(b *Batch, buf []byte, at int) error {
	end := at // of what is kept
	for at < len(buf) {
		n := bytes.IndexByte(buf[at:], '\n')
		if n < 0 {
			return damaged("an event that does not end with its lz4 block")
		}
		line := buf[at : at+n]
		time, err := eventTime(line)
		switch {
		case err != nil:
			return damaged("event %.60q: %v", line, err)
		case r.lost:
			return damaged("an event after the count of lost ones")
		case time < r.meta.Last:
			return damaged("an event at %d ns after one at %d ns", time, r.meta.Last)
		case n > MaxEvent:
			return damaged("an event longer than %d bytes", MaxEvent)
		}
		if isLost(line) {
			if err := r.lostLine(line); err != nil {
				return err
			}
			at += n + 1
			continue
		}
		if r.meta.Records == 0 {
			r.meta.First = time
		}
		r.meta.Last = time
		r.meta.Records++
		at += n + 1
		end = at
		b.Ends = append(b.Ends, uint32(at))
		b.Times = append(b.Times, time)
	}
	b.Buf = buf[:end]
	return nil
}

// lostLine takes the last line of an events chunk, which counts lost events.
func (r *Reader) lostLine(line []byte) error {
	r.lost = true
	digits := string(line[bytes.Index(line, []byte(lostMember))+len(lostMember):])
	digits, _ = strings.CutSuffix(digits, `"}`)
	n, err := strconv.ParseUint(digits, 10, 64)
	if want := appendLost(nil, r.meta.Last, n); err != nil || n == 0 || !slices.Equal(want[:len(want)-1], line) {
		return damaged("a count of lost events that reads %.80q", line)
	}
	r.meta.Drops = n
	return nil
}
