package chunker

import "github.com/pierrec/lz4/v4"

type compressor struct{ c lz4.CompressorCCompat }

// compress returns the length of raw's lz4 block in dst, or 0 when it does not fit.
func (c *compressor) compress(dst, raw []byte) int {
	n, err := c.c.CompressBlock(raw, dst)
	if err != nil {
		return 0
	}
	return n
}
