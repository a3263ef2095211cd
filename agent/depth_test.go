package agent

import (
	"strings"
	"testing"
	"time"
)

// A depth that collapses is warned of, until the ring reaches back as it did or
// nobody remembers; one that grows, wobbles or shrinks slowly is not.
func TestDepths(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	d := depths{words: ": see to it"}
	at := start
	look := func(after time.Duration, depth time.Duration, full bool, want string) {
		t.Helper()
		at = at.Add(after)
		got := d.look(at, depth, full)
		if got == "" && want != "" || want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("after %s, %s deep: %q, want %q", at.Sub(start), depth, got, want)
		}
	}
	const fell = "the ring reached back 30m within the last hour, and now less than a quarter of that, as more comes in"
	look(0, time.Second, false, "") // it has just begun
	for range 30 {
		look(time.Minute, 30*time.Minute, true, "")
	}
	look(2*time.Second, 10*time.Minute, true, "")
	look(2*time.Second, 5*time.Minute, true, fell)
	look(2*time.Second, 20*time.Second, true, fell+": see to it")
	look(20*time.Minute, 5*time.Minute, true, fell)
	look(2*time.Second, 8*time.Minute, true, "")
	look(2*time.Second, 20*time.Second, true, fell)
	look(50*time.Minute, 20*time.Second, true, "the ring reached back") // of what there was since
	look(59*time.Minute, 20*time.Second, true, "")                      // so it is now
	look(2*time.Second, 4*time.Second, true, "")                        // of a ring that shallow
	look(24*time.Hour, 2*time.Hour, true, "")
	look(10*time.Second, time.Minute, true, "2h0m")
	d.reset() // the clock was set
	look(10*time.Second, time.Minute, true, "")
	look(-2*time.Hour, time.Minute, true, "")

	d = depths{warnBelow: 10 * time.Minute}
	look(0, time.Minute, false, "")
	look(time.Minute, 9*time.Minute, true, "less than the 10m that it is to")
	look(time.Minute, 10*time.Minute, true, "")
}
