package pcapgen

// A rank says which of two records goes first: the lower one. Among the next
// records of all inputs no two have the same.
type rank struct {
	time int64
	tie  uint64 // the output's interface number, then the place in the inventory
}

func (a rank) less(b rank) bool {
	return a.time < b.time || (a.time == b.time && a.tie < b.tie)
}

// A tree is a tree of losers over the next records of the inputs that are open:
// each inner node holds the loser of the match between the winners of its two
// sides, so that a leaf's new rank meets one opponent a level.
type tree struct {
	heads  []head // the leaves
	nodes  []player
	winner player
}

// A head is an input with the batch that is being merged.
type head struct {
	in    *input
	batch *batch
}

// rank is that of record i.
func (h *head) rank(i int) rank {
	return rank{h.batch.Times[i], uint64(h.batch.interfaces[i])<<32 | uint64(h.in.order)}
}

type player struct {
	rank
	leaf int32
}

// build plays all matches anew, after heads were added or removed. It takes a
// few microseconds for hundreds of inputs, and happens twice a chunk.
func (t *tree) build() {
	n := len(t.heads)
	if n == 0 {
		return
	}
	if cap(t.nodes) < n {
		t.nodes = make([]player, 2*n)
	}
	t.nodes = t.nodes[:n]
	t.winner = t.play(1)
}

// play returns the winner below node i. Nodes n to 2n-1 are the leaves.
func (t *tree) play(i int) player {
	if n := len(t.heads); i >= n {
		h := &t.heads[i-n]
		return player{h.rank(h.batch.next), int32(i - n)}
	}
	a, b := t.play(2*i), t.play(2*i+1)
	if b.less(a.rank) {
		a, b = b, a
	}
	t.nodes[i] = b
	return a
}

// replace gives the winner's leaf a new rank and finds the new winner.
func (t *tree) replace(r rank) {
	p := player{r, t.winner.leaf}
	for i := (len(t.heads) + int(p.leaf)) / 2; i > 0; i /= 2 {
		if q := &t.nodes[i]; q.less(p.rank) {
			p, *q = *q, p
		}
	}
	t.winner = p
}

// second is the rank of the best record of the inputs other than the winner's,
// each of which lost to the winner or to one that did. There are two heads at
// least.
func (t *tree) second() rank {
	n := len(t.heads)
	i := (n + int(t.winner.leaf)) / 2
	best := t.nodes[i].rank
	for i /= 2; i > 0; i /= 2 {
		if q := &t.nodes[i]; q.less(best) {
			best = q.rank
		}
	}
	return best
}
