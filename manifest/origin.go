package manifest

import (
	"cmp"
	"fmt"

	"pcapsule/chunker"
)

// An Origin is what an imported capture says of an interface of a node, and of
// itself. An interface may have several, of several files or sections of files.
// What is not told is empty.
type Origin struct {
	chunker.Interface // of the node's

	Comment    string `json:"comment,omitempty"`
	Filter     string `json:"filter,omitempty"` // in tcpdump's language: what it does not match was left out on purpose
	OS         string `json:"os,omitempty"`
	Hardware   string `json:"hardware,omitempty"`
	MAC        string `json:"mac,omitempty"`        // and EUI-64, as 02:00:00:00:00:01
	Addresses  string `json:"addresses,omitempty"`  // with their prefixes, as 10.0.0.1/24, with spaces between them
	Speed      string `json:"speed,omitempty"`      // bits a second, in decimal
	Resolution string `json:"resolution,omitempty"` // of times, in seconds, as 10^-6 or 2^-20

	// Of the capture.
	CaptureComment  string `json:"capture_comment,omitempty"`
	CaptureHardware string `json:"capture_hardware,omitempty"`
	CaptureOS       string `json:"capture_os,omitempty"`
	Application     string `json:"application,omitempty"`
}

// texts are all that o says, in order.
func (o *Origin) texts() []string {
	return []string{
		o.Comment, o.Filter, o.OS, o.Hardware, o.MAC, o.Addresses, o.Speed, o.Resolution,
		o.CaptureComment, o.CaptureHardware, o.CaptureOS, o.Application,
	}
}

// Empty tells whether o says nothing.
func (o *Origin) Empty() bool { return *o == Origin{Interface: o.Interface} }

// CompareOrigins is the order of origins in a manifest.
func CompareOrigins(a, b Origin) int {
	if d := CompareInterfaces(a.Interface, b.Interface); d != 0 {
		return d
	}
	other := b.texts()
	for i, text := range a.texts() {
		if d := cmp.Compare(text, other[i]); d != 0 {
			return d
		}
	}
	return 0
}

func validateOrigins(list []Origin) error {
	for i := range list {
		o := &list[i]
		if err := checkTexts("origin of an interface", append(o.texts(), o.Name, o.Description)); err != nil {
			return err
		}
		if i > 0 && CompareOrigins(list[i-1], *o) >= 0 {
			return fmt.Errorf("origin of interface %q is twice or out of order", o.Name)
		}
	}
	return nil
}
