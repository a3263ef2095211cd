package importer

import (
	"fmt"

	"pcapsule/manifest"
)

// maxOrigins is how many different things the files of a node may say of
// interfaces. Files of a rotated capture all say the same.
const maxOrigins = 1000

// origin notes what a file says of interface i. That one was captured and has no
// packets is worth noting, too.
func (f *file) origin(i int) {
	from := f.capture.Interface(i)
	says, capture := from.Says, from.Capture
	o := manifest.Origin{
		Interface: named(from, i),
		Comment:   says.Comment, Filter: says.Filter, OS: says.OS, Hardware: says.Hardware,
		MAC: says.MAC, Addresses: says.Addresses, Speed: says.Speed, Resolution: says.Resolution,
		CaptureComment: capture.Comment, CaptureHardware: capture.Hardware, CaptureOS: capture.OS, Application: capture.Application,
	}
	_, used := f.numbers[i]
	switch {
	case o.Empty() && used, f.origins[o]:
	case len(f.origins) >= maxOrigins:
		f.gap(manifest.GapSkipped, fmt.Sprintf("%s: what is said of interfaces, beyond %d different things", f.name, maxOrigins), 1)
	default:
		f.origins[o] = true
	}
}
