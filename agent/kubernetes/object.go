package kubernetes

import (
	"cmp"
	"fmt"
	"slices"

	"pcapsule/cluster"
	"pcapsule/manifest"
)

// An object is what is kept of one: how it stands in a record, and nothing else.
// 5,000 pods take a few MiB.
type object struct {
	uid  string
	name string // namespace/name
	body string // of its record: cluster.Record.Body
	seen int    // the round of lists in which it was last told of
}

func newObject(r *cluster.Record) (*object, error) {
	m := r.Meta()
	if m == nil || m.UID == "" {
		return nil, fmt.Errorf("the API server sent an object without a uid")
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	// What no chunk takes is found out here.
	if _, err := cluster.AppendLine(nil, 1<<62, cluster.OpComplete, body); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", m.Namespace, m.Name, err)
	}
	return &object{uid: m.UID, name: m.Namespace + "/" + m.Name, body: string(body)}, nil
}

// A view is what is known of one resource's objects.
type view struct {
	resource
	objects map[string]*object // by uid
	round   int                // of lists
	state   viewState
	since   int64 // of viewAway: from when on it is not up to date
}

type viewState int

const (
	viewWaiting viewState = iota // never listed
	viewCurrent                  // up to date
	viewAway                     // not up to date, since
	viewDenied                   // may not be seen
)

// set notes an object, and tells whether that changes anything.
func (v *view) set(o *object) bool {
	o.seen = v.round
	if old := v.objects[o.uid]; old != nil {
		old.seen = v.round
		if old.body == o.body {
			return false
		}
	}
	v.objects[o.uid] = o
	return true
}

// sweep removes the objects that the last list did not tell of, and returns them
// in order.
func (v *view) sweep() []*object {
	var gone []*object
	for uid, o := range v.objects {
		if o.seen != v.round {
			gone = append(gone, o)
			delete(v.objects, uid)
		}
	}
	sortObjects(gone)
	return gone
}

// all are the objects in order.
func (v *view) all() []*object {
	list := make([]*object, 0, len(v.objects))
	for _, o := range v.objects {
		list = append(list, o)
	}
	sortObjects(list)
	return list
}

// sortObjects puts those side by side that look alike, which compresses well.
func sortObjects(list []*object) {
	slices.SortFunc(list, func(a, b *object) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.uid, b.uid)) })
}

// views are all resources.
type views []*view

func newViews() views {
	var out views
	for _, r := range resources() {
		out = append(out, &view{resource: r, objects: map[string]*object{}})
	}
	return out
}

// keyframe is who records, and what is not in the state.
func (vs views) keyframe(node string, clock manifest.Clock) *cluster.Keyframe {
	k := &cluster.Keyframe{Version: cluster.Version, Node: node, Clock: clock}
	for _, v := range vs {
		if v.state == viewDenied {
			k.Missing = append(k.Missing, v.name)
		}
		if v.name == namespacesResource {
			for uid, o := range v.objects {
				if o.name == "/kube-system" {
					k.Cluster = uid
				}
			}
		}
	}
	return k
}

// nodes is how many the cluster has.
func (vs views) nodes() int {
	for _, v := range vs {
		if v.name == nodesResource {
			return len(v.objects)
		}
	}
	return 0
}
