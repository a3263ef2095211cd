package manifest

import "fmt"

// VoidFormat stands in a void marker where Format stands in a manifest.
const VoidFormat = "pcapsule.void"

// MaxVoid is the largest void marker in bytes.
const MaxVoid = 16 << 10

// A Void ends a session without a snapshot: it takes the manifest's place, for
// ever. Whoever waits for the session's snapshot finds it under Successor, when
// there is one.
type Void struct {
	Format    string `json:"format"`
	Version   int    `json:"version"`
	ID        string `json:"id"`
	Successor string `json:"successor,omitempty"` // id of the session that carries on
	Reason    string `json:"reason,omitempty"`    // for people
}

// Encode fills in Format and Version, validates v and writes it.
func (v Void) Encode() ([]byte, error) {
	v.Format, v.Version = VoidFormat, Version
	if err := v.validate(); err != nil {
		return nil, fmt.Errorf("encode void marker: %w", err)
	}
	b, err := marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode void marker: %w", err)
	}
	return b, nil
}

// DecodeVoid reads a void marker.
func DecodeVoid(b []byte) (Void, error) {
	var v Void
	if len(b) > MaxVoid {
		return v, fmt.Errorf("decode void marker: %d bytes, at most %d", len(b), MaxVoid)
	}
	if err := unmarshal(b, &v); err != nil {
		return Void{}, fmt.Errorf("decode void marker: %w", err)
	}
	if err := v.validate(); err != nil {
		return Void{}, fmt.Errorf("decode void marker: %w", err)
	}
	return v, nil
}

func (v Void) validate() error {
	if err := checkFormat(v.Format, VoidFormat, v.Version, Version); err != nil {
		return err
	}
	if err := CheckID(v.ID); err != nil {
		return err
	}
	if v.Successor != "" {
		if err := CheckID(v.Successor); err != nil {
			return fmt.Errorf("successor: %w", err)
		}
		if v.Successor == v.ID {
			return fmt.Errorf("successor %s is the session itself", v.Successor)
		}
	}
	return checkText("reason", v.Reason)
}
