package packets

import (
	"slices"
)

// maxDevices is how many devices are followed for one name: more than one when
// what had the name was renamed, and another took the name.
const maxDevices = 4

// named follows the interfaces that a capture was told by name. A device that had
// the name while the capture ran is the interface for as long as it is there,
// whatever it is called since; and so is a device that takes the name later.
// links.mu guards it.
type named struct {
	list []Named
}

func newNamed(names []string) *named {
	n := &named{}
	for _, name := range names {
		if !slices.ContainsFunc(n.list, func(o Named) bool { return o.Name == name }) {
			n.list = append(n.list, Named{Name: name})
		}
	}
	return n
}

// any tells whether interfaces were named at all.
func (n *named) any() bool { return len(n.list) > 0 }

// update brings the list in step with the links that are present, and tells
// whether that changed anything.
func (n *named) update(present []link) (changed bool) {
	for i := range n.list {
		old := n.list[i]
		next := old.follow(present)
		changed = changed || next.State != old.State || !slices.Equal(next.Devices, old.Devices) || !slices.Equal(next.As, old.As)
		n.list[i] = next
	}
	return changed
}

// follow is what became of a named interface.
func (n Named) follow(present []link) Named {
	next := Named{Name: n.Name, State: NamedGone, Last: n.Last}
	var devices []link
	for _, index := range n.Devices {
		if i := slices.IndexFunc(present, func(l link) bool { return l.index == index }); i >= 0 {
			devices = append(devices, present[i])
		}
	}
	for _, l := range present {
		if l.name == n.Name && !slices.Contains(n.Devices, l.index) {
			devices = append(devices, l)
		}
	}
	for len(devices) > maxDevices { // the one that has another name for longest
		i := max(0, slices.IndexFunc(devices, func(l link) bool { return l.name != n.Name }))
		devices = slices.Delete(devices, i, i+1)
	}
	for _, l := range devices {
		next.Devices, next.As = append(next.Devices, l.index), append(next.As, l.name)
		next.Last.Name, next.Last.Description, next.Last.LinkType = n.Name, l.description, linkType(l.hatype)
		switch {
		case l.up():
			next.State = NamedUp
		case next.State == NamedGone:
			next.State = NamedDown
		}
	}
	return next
}

// indexes are those of all devices, in order, at most MaxIndexes.
func (n *named) indexes() []int {
	indexes := []int{}
	for _, name := range []bool{true, false} { // those first that have their name
		for _, o := range n.list {
			for i, index := range o.Devices {
				if (o.As[i] == o.Name) == name && !slices.Contains(indexes, index) && len(indexes) < MaxIndexes {
					indexes = append(indexes, index)
				}
			}
		}
	}
	slices.Sort(indexes)
	return indexes
}
