package manifest

import "fmt"

// StoreFormat and StoreVersion are what DecodeStore reads.
const (
	StoreFormat  = "pcapsule.store"
	StoreVersion = 1
)

// Limits of the object at StorePath.
const (
	MaxStore    = 64 << 10 // bytes
	maxRequired = 256      // words
)

// A Store is the object at StorePath: what a program has to know before it
// writes to the store, or deletes in it.
type Store struct {
	Format        string   `json:"format"`
	Version       int      `json:"version"`
	WriteRequires []string `json:"write_requires"` // words; each is defined by who requires it
}

// knownWords are those of WriteRequires that this program knows, and does what
// they ask for. There are none yet.
var knownWords = map[string]bool{}

// DecodeStore reads the object at StorePath. It refuses what two programs could
// understand in two ways.
func DecodeStore(b []byte) (Store, error) {
	var s Store
	if len(b) > MaxStore {
		return Store{}, fmt.Errorf("decode %s: %d bytes, at most %d", StorePath, len(b), MaxStore)
	}
	if err := unmarshal(b, &s); err != nil {
		return Store{}, fmt.Errorf("decode %s: %w", StorePath, err)
	}
	if err := s.validate(); err != nil {
		return Store{}, fmt.Errorf("decode %s: %w", StorePath, err)
	}
	return s, nil
}

// Encode fills in Format and Version, validates s and writes it.
func (s Store) Encode() ([]byte, error) {
	s.Format, s.Version = StoreFormat, StoreVersion
	if s.WriteRequires == nil {
		s.WriteRequires = []string{}
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", StorePath, err)
	}
	b, err := marshal(s)
	if err == nil && len(b) > MaxStore {
		err = fmt.Errorf("%d bytes, at most %d", len(b), MaxStore)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", StorePath, err)
	}
	return b, nil
}

func (s Store) validate() error {
	if err := checkFormat(s.Format, StoreFormat, s.Version, StoreVersion); err != nil {
		return err
	}
	if len(s.WriteRequires) > maxRequired {
		return fmt.Errorf("write_requires has %d words, at most %d", len(s.WriteRequires), maxRequired)
	}
	for _, w := range s.WriteRequires {
		if err := checkLabel("write_requires", w); err != nil {
			return err
		}
	}
	return nil
}

// Unknown returns the words of WriteRequires that this program does not know, and
// for which it must not write to the store.
func (s Store) Unknown() []string {
	var words []string
	for _, w := range s.WriteRequires {
		if !knownWords[w] {
			words = append(words, w)
		}
	}
	return words
}
