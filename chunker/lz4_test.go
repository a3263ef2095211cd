package chunker

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// check compresses src in the three ways and holds two decoders against it.
func checkCompressor(t testing.TB, c *compressor, src []byte) {
	t.Helper()
	for _, packets := range []bool{false, true} {
		for _, room := range []int{len(src) - 1, len(src) / 2, lz4.CompressBlockBound(len(src)) + 64} {
			dst := bytes.Repeat([]byte{0xa5}, max(room, 0)+8)
			n := c.compress(dst[:max(room, 0)], src, packets)
			if string(dst[len(dst)-8:]) != "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5" {
				t.Fatal("wrote past dst")
			}
			if n == 0 {
				if room > len(src) {
					t.Fatalf("%d bytes do not fit into %d", len(src), room)
				}
				continue
			}
			got := make([]byte, len(src))
			m, err := lz4.UncompressBlock(dst[:n], got)
			if err != nil || m != len(src) || !bytes.Equal(got, src) {
				t.Fatalf("packets %v: %d bytes come back as %d: %v", packets, len(src), m, err)
			}
		}
	}
}

func TestCompressor(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var c compressor
	for _, size := range []int{1, 2, 5, 12, 13, 40, 79, 80, 81, 82, 100, 1000, 5000, 65535, 65536} {
		zero := make([]byte, size)
		text := bytes.Repeat([]byte("0123456789abcdef, it goes on "), size/29+1)[:size]
		noise := make([]byte, size)
		few := make([]byte, size)
		for i := range noise {
			noise[i] = byte(rnd.Uint32())
			few[i] = byte(rnd.Uint32N(3))
		}
		late := bytes.Clone(noise)
		copy(late[size/2:], late[:size/2])
		for _, src := range [][]byte{zero, text, noise, few, late} {
			checkCompressor(t, &c, src)
		}
	}
}

func FuzzCompressor(f *testing.F) {
	f.Add([]byte("hello"), 1)
	f.Add(bytes.Repeat([]byte("\x06\x00\x00\x00\x40\x00\x00\x00abcdefgh"), 90), 3)
	f.Fuzz(func(t *testing.T, src []byte, times int) {
		var c compressor
		src = bytes.Repeat(src, max(1, min(times, 100)))
		if len(src) == 0 || len(src) > BlockSize {
			return
		}
		checkCompressor(t, &c, src)
	})
}

// TestCompressorAgainstC holds lz4's own decoder against blocks of real packets
// and of noise, in whole frames.
func TestCompressorAgainstC(t *testing.T) {
	if _, err := exec.LookPath("lz4"); err != nil {
		t.Fatal("install lz4 to run this test (Debian package lz4)")
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	var want, got bytes.Buffer
	f := frame{packets: true}
	f.start(&got)
	for range 200 {
		block := make([]byte, 1+rnd.IntN(BlockSize))
		for i := range block {
			block[i] = byte(rnd.Uint32N(4))
			if i > 200 && rnd.IntN(8) > 0 {
				block[i] = block[i-112]
			}
		}
		for p := 0; p+112 < len(block); p += 112 {
			copy(block[p:], "\x06\x00\x00\x00\x70\x00\x00\x00")
		}
		want.Write(block)
		f.block(block)
	}
	if _, _, err := f.finish(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.lz4")
	if err := os.WriteFile(name, got.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("lz4", "-dc", name).Output()
	if err != nil || !bytes.Equal(out, want.Bytes()) {
		t.Fatalf("lz4 -d: %v, %d bytes of %d", err, len(out), want.Len())
	}
	if got.Len() > want.Len()*3/4 {
		t.Errorf("compressed %d bytes to %d", want.Len(), got.Len())
	}
}
