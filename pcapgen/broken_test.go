package pcapgen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"pcapsule/chunker"
	"pcapsule/store"
)

// inTurn is a snapshot of chunks that follow each other, of 300 kB each.
func inTurn(t testing.TB, chunks int) *snapshot { return apart(t, chunks, second) }

// apart is a snapshot of chunks of 100 packets, a nanosecond from each other, that
// begin step nanoseconds after each other.
func apart(t testing.TB, chunks int, step int64) *snapshot {
	s := newSnapshot(t)
	eth := ethernet("eth0")
	s.node("a", eth)
	for c := range chunks {
		var records []chunker.Record
		for i := range 100 {
			records = append(records, packet(t0+int64(c)*step+int64(i), 0, uint64(c*1000+i), 3000))
		}
		s.chunk("a", []chunker.Interface{eth}, records)
	}
	return s
}

// A chunk in the middle that is not what it should be is an error, and what was
// written until then does not look whole.
func TestBrokenChunk(t *testing.T) {
	tests := []struct {
		name string
		do   func(s *snapshot, key string)
		want error
	}{
		{"bit flipped", func(s *snapshot, key string) {
			b := bytes.Clone(s.store.bytes[key])
			b[len(b)/2] ^= 1
			s.store.bytes[key] = b
		}, chunker.ErrDamaged},
		{"cut short", func(s *snapshot, key string) {
			s.store.bytes[key] = s.store.bytes[key][:1000]
		}, chunker.ErrDamaged},
		{"missing", func(s *snapshot, key string) { delete(s.store.bytes, key) }, store.ErrNotExist},
		{"begins before its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].First++ }, chunker.ErrDamaged},
		{"ends after its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].Last-- }, chunker.ErrDamaged},
		{"begins after its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].First-- }, chunker.ErrDamaged},
		{"ends before its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].Last++ }, chunker.ErrDamaged},
		{"fewer packets than its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].Records++ }, chunker.ErrDamaged},
		{"more packets than its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].Records-- }, chunker.ErrDamaged},
		{"more raw bytes than its inventory says", func(s *snapshot, key string) { s.inventories["a"][15].RawSize-- }, chunker.ErrDamaged},
		{"no drops, and its inventory says some", func(s *snapshot, key string) { s.inventories["a"][15].Drops = 1 << 40 }, chunker.ErrDamaged},
		{"of a giant size", func(s *snapshot, key string) { s.inventories["a"][15].Size = 1 << 40 }, chunker.ErrDamaged},
		{"of a foreign key", func(s *snapshot, key string) {
			s.store.bytes["x"] = s.store.bytes[key]
			s.inventories["a"][15].Key = "x"
		}, nil},
		{"of an interface that is not listed", func(s *snapshot, key string) {
			records := []chunker.Record{packet(t0+15*second, 0, 1, 1)}
			s.chunk("a", []chunker.Interface{ethernet("eth7")}, records)
		}, chunker.ErrDamaged},
	}
	base := inTurn(t, 30)
	for _, tt := range tests {
		for _, f := range []Format{PcapNG, Pcap} {
			t.Run(tt.name+"/"+f.String(), func(t *testing.T) {
				s := base.clone(t)
				tt.do(s, s.inventories["a"][15].Key)
				var b bytes.Buffer
				stats, err := Export(t.Context(), &b, s.source(), Request{Format: f})
				if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
					t.Fatalf("error %v, want %v", err, tt.want)
				}
				if stats.Bytes != int64(b.Len()) {
					t.Errorf("Stats.Bytes is %d, and %d were written", stats.Bytes, b.Len())
				}
				if whole(b.Bytes(), f) {
					t.Errorf("the %d bytes that were written look whole", b.Len())
				}
			})
		}
	}
}

// whole tells whether b ends where a block ends.
func whole(b []byte, f Format) bool {
	if f == PcapNG {
		_, err := parse(b)
		return err == nil && len(b) > 0
	}
	if len(b) < pcapHeader {
		return false
	}
	b = b[pcapHeader:]
	for len(b) >= pcapRecord {
		n := pcapRecord + int(b[8]) + int(b[9])<<8 + int(b[10])<<16
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}

// Whatever the size of the writes, none but the last ends at the end of a block.
func TestNeverWholeBeforeTheEnd(t *testing.T) {
	s := inTurn(t, 5)
	for _, f := range []Format{PcapNG, Pcap} {
		all, _ := s.export(Request{Format: f})
		var got bytes.Buffer
		_, err := Export(t.Context(), writer(func(b []byte) (int, error) {
			if got.Len() > 0 && whole(got.Bytes(), f) {
				t.Errorf("%s: whole after %d of %d bytes", f, got.Len(), len(all))
			}
			return got.Write(b)
		}), s.source(), Request{Format: f})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(all, got.Bytes()) || !whole(got.Bytes(), f) {
			t.Errorf("%s: not whole in the end", f)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// A first chunk that cannot be had is an error before the first byte.
func TestBrokenFirstChunk(t *testing.T) {
	s := inTurn(t, 3)
	delete(s.store.bytes, s.inventories["a"][0].Key)
	var b bytes.Buffer
	if _, err := Export(t.Context(), &b, s.source(), Request{}); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("error %v, want ErrNotExist", err)
	}
	if b.Len() > 0 {
		t.Errorf("%d bytes were written", b.Len())
	}
}

func TestWriterFails(t *testing.T) {
	s := inTurn(t, 30)
	full := errors.New("disk is full")
	n := 0
	_, err := Export(t.Context(), writer(func(b []byte) (int, error) {
		if n++; n == 3 {
			return 1, full
		}
		return len(b), nil
	}), s.source(), Request{})
	if !errors.Is(err, full) || n != 3 {
		t.Errorf("error %v after %d writes, want that of the third", err, n)
	}
}

// The bubble ends only when every goroutine has.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	s := apart(t, 60, 1) // all at once, so that most chunks are spooled
	for _, after := range []int{1, 5, 40} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			stop := errors.New("the client has gone")
			n := 0
			s.store.get = func(ctx context.Context, _ string) error {
				s.store.mu.Lock()
				n++
				last := n >= after
				s.store.mu.Unlock()
				if !last {
					return nil
				}
				cancel(stop)
				<-ctx.Done()
				return ctx.Err()
			}
			_, err := Export(ctx, io.Discard, s.source(), Request{})
			if !errors.Is(err, stop) || !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that of the context and its cause", err)
			}
		})
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestCancelBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := inTurn(t, 3)
	if _, err := Export(ctx, io.Discard, s.source(), Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// While a reader takes nothing, an export fetches a few chunks and stops.
func TestSlowWriter(t *testing.T) {
	s := inTurn(t, 100)
	want, _ := s.export(Request{})
	synctest.Test(t, func(t *testing.T) {
		fetched := 0
		s.store.get = func(context.Context, string) error {
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			fetched++
			return nil
		}
		r, w := io.Pipe()
		go func() {
			_, err := Export(context.Background(), w, s.source(), Request{})
			w.CloseWithError(err)
		}()
		synctest.Wait()
		if fetched > 2*aheadCount {
			t.Errorf("%d chunks were fetched for a reader that takes nothing", fetched)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Error("other bytes than for a fast reader")
		}
	})
}

// What is there leaves while the next chunk is on its way.
func TestFirstByteBeforeLastChunk(t *testing.T) {
	s := newSnapshot(t)
	eth := ethernet("eth0")
	s.node("a", eth)
	s.chunk("a", []chunker.Interface{eth}, []chunker.Record{packet(t0, 0, 1, 10)})
	late := s.chunk("a", []chunker.Interface{eth}, []chunker.Record{packet(t0+second, 0, 2, 10)})
	synctest.Test(t, func(t *testing.T) {
		arrive := make(chan struct{})
		s.store.get = func(_ context.Context, key string) error {
			if key == late {
				<-arrive
			}
			return nil
		}
		var b strings.Builder
		done := make(chan error)
		go func() {
			_, err := Export(context.Background(), &b, s.source(), Request{})
			done <- err
		}()
		synctest.Wait()
		if b.Len() == 0 {
			t.Error("nothing was written while the second chunk is on its way")
		}
		close(arrive)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
