// Package api is what the hub speaks over HTTP: paths, messages and a client.
// Agents, commands and the hub share it, so that they need not know each other.
//
// Messages are JSON. Errors are an Error with the matching status. The document
// openapi.json, which the hub serves, says the same and is held against the
// handlers by a test in package hub.
package api

import (
	"encoding/hex"
	"fmt"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// Prefix of all paths but /healthz, /readyz, /metrics and /grants/.
const Prefix = "/api/v1"

// Error codes, for programs.
const (
	CodeInvalid      = "invalid"       // 400: the request makes no sense; Message says why
	CodeForbidden    = "forbidden"     // 403
	CodeNotFound     = "not-found"     // 404
	CodeNameTaken    = "name-taken"    // 409
	CodeSuperseded   = "superseded"    // 410: the session was voided; Successor carries on
	CodeNotRecorded  = "not-recorded"  // 422: no chosen node recorded any of the window
	CodeMixedLinks   = "mixed-links"   // 422: classic pcap holds one link type
	CodeUnavailable  = "unavailable"   // 503: the store does not answer
	CodeStopping     = "stopping"      // 503: the hub is about to end, and has not begun what was asked for
	CodeInternal     = "internal"      // 500
	CodeNoSpace      = "no-space"      // 507
	CodeUnknownNode  = "unknown-node"  // 404
	CodeNotCompleted = "not-completed" // 409: the snapshot is still being made, or failed
	CodeUnreachable  = "unreachable"   // 504: no chosen node answered in time
	CodeDamaged      = "damaged"       // 500: what the store holds is not what was put there
	CodeUntrusted    = "untrusted"     // 403: the snapshot is signed by a key that the hub does not trust

	CodeUnauthenticated = "unauthenticated" // 401: no token, or one that is not valid for this hub
)

// HeaderClaimedUser says, in a request with a role's token, who asked for that
// token. The hub's audit log has it as what it is, a claim.
const HeaderClaimedUser = "Pcapsule-Claimed-User"

// Error is the body of every answer that is not a success.
type Error struct {
	Status    int    `json:"-"`
	Code      string `json:"code"`
	Message   string `json:"message"`             // one line, for people: what is wrong and what to do
	Successor string `json:"successor,omitempty"` // with CodeSuperseded
}

func (e *Error) Error() string { return e.Message }

// Status of a Snapshot, beside manifest.Completed and manifest.Partial.
const (
	Creating = "creating"
	Dead     = "dead" // was being made by a process that has died
	Failed   = "failed"
	Damaged  = "damaged" // its manifest or signature cannot be read
)

// CreateRequest asks for a snapshot. Either Last, or From and To.
// POST /api/v1/snapshots, answered 202 with a Snapshot whose Status is Creating,
// unless its session has ended by then.
type CreateRequest struct {
	Name   string    `json:"name,omitempty"` // made up from the time when empty
	Last   string    `json:"last,omitempty"` // a Go duration, ending now
	From   time.Time `json:"from,omitzero"`
	To     time.Time `json:"to,omitzero"`
	Nodes  []string  `json:"nodes,omitempty"`  // all known ones when empty
	Import bool      `json:"import,omitempty"` // Nodes are played by the caller, who uploads their parts; the window is what they hold
}

// Snapshot is what a list says of one, and the state of one in the making.
// GET /api/v1/snapshots (an array), GET /api/v1/snapshots/{ref}.
type Snapshot struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	Status   string     `json:"status"`
	Reasons  []string   `json:"reasons,omitempty"`  // of Partial, Failed and Damaged
	Warnings []string   `json:"warnings,omitempty"` // what is worth knowing and makes nothing partial
	Size     int64      `json:"size"`               // stored bytes of its chunks
	RawSize  int64      `json:"raw_size"`
	Records  uint64     `json:"records"` // packets
	Drops    uint64     `json:"drops"`   // of them
	Start    time.Time  `json:"start"`   // of the window
	End      time.Time  `json:"end"`
	Created  time.Time  `json:"created"`
	Nodes    []string   `json:"nodes"`
	Owner    string     `json:"owner,omitempty"`    // while Creating or Dead: who makes it, for people
	Deadline time.Time  `json:"deadline,omitzero"`  // while Creating or Dead: when a sweep may end it
	Heard    time.Time  `json:"heard,omitzero"`     // while Creating, of an import through a hub: when its client last gave a sign of life
	Expires  time.Time  `json:"expires,omitzero"`   // with Heard: when the hub ends the import unless its client gives another
	Awaited  bool       `json:"awaited,omitempty"`  // while Creating: a sweep of this hub waits for it
	Progress []Progress `json:"progress,omitempty"` // while Creating, one a node
	Error    *Error     `json:"error,omitempty"`    // why it Failed or is Damaged, or what holds it up while Creating

	// Who signed it; nothing while Creating, and where the signature does not fit.
	Signer    string `json:"signer,omitempty"`     // fingerprint of the key
	SignerKey string `json:"signer_key,omitempty"` // the key: type and base64
	SignerOf  string `json:"signer_of,omitempty"`  // whose key it is, where the one who answers knows
	Trusted   *bool  `json:"trusted,omitempty"`    // by the one who answers
	Distrust  string `json:"distrust,omitempty"`   // why it is not Trusted
}

// SignEvery is how often the client of an import reports progress, also while its
// input gives nothing: the hub takes a client that is silent for minutes for dead.
const SignEvery = 10 * time.Second

// Progress of one node in a session. Whoever plays the nodes of an import reports
// that of any of them, every SignEvery.
// POST /api/v1/sessions/{id}/nodes/{node}/progress.
type Progress struct {
	Node   string `json:"node"`
	State  string `json:"state"` // waiting, sealing, uploading, done, unreachable
	Chunks int    `json:"chunks"`
	Bytes  int64  `json:"bytes"`           // to be in the store when done
	Done   int64  `json:"done"`            // of them, in the store
	Sent   int64  `json:"sent"`            // of them, sent by this session; the rest was there
	Error  *Error `json:"error,omitempty"` // what keeps the node from going on, while it does
}

// Node is a machine whose agent has reported. GET /api/v1/nodes.
type Node struct {
	Name       string            `json:"name"`
	Live       bool              `json:"live"`
	LastSeen   time.Time         `json:"last_seen"`
	Clock      manifest.Clock    `json:"clock"`
	Versions   manifest.Versions `json:"versions"`
	Interfaces []Interface       `json:"interfaces"`
	Ring       Ring              `json:"ring"`
	Warnings   []string          `json:"warnings"` // what keeps it from recording all that it is to record, now
}

// An Interface is one that an agent records, or is to record.
type Interface struct {
	chunker.Interface
	State string `json:"state,omitempty"` // InterfaceUp and so on; empty where the agent does not say
}

// States of an Interface.
const (
	InterfaceUp   = "up"
	InterfaceDown = "down"
	InterfaceGone = "gone" // it was named, and there is none of that name
)

// Bounds of the warnings of a node.
const (
	MaxWarnings = 16
	MaxWarning  = 256 // bytes of one
)

// Ring is how full an agent's ring is.
type Ring struct {
	Limit  int64     `json:"limit"` // bytes
	Used   int64     `json:"used"`
	Pinned int64     `json:"pinned"`
	Chunks int       `json:"chunks"`
	Oldest time.Time `json:"oldest,omitzero"` // from here on the ring holds everything
	Drops  uint64    `json:"drops"`           // by the kernel, since start
}

// Hub tells about the hub itself. GET /api/v1/hub.
type Hub struct {
	Version   string    `json:"version"`
	Store     string    `json:"store"`      // for people: a folder, or a bucket and prefix
	PublicKey string    `json:"public_key"` // a line of an allowed_signers file
	Time      time.Time `json:"time"`
	Started   time.Time `json:"started,omitzero"` // it waits for its agents for a while

	// Signers are lines of further keys whose snapshots the hub serves: those of
	// its predecessors, and those that it was told to trust. SignersSig is the
	// signature of Signers by PublicKey, so that only who has that key can say so.
	Signers    string `json:"signers,omitempty"`
	SignersSig string `json:"signers_sig,omitempty"`

	// Proof is the signature, by PublicKey, of ProofText of the challenge in the
	// request: a public key alone anybody can show.
	Proof  string `json:"proof,omitempty"`
	Proven bool   `json:"-"` // to Client.Hub, which made the challenge
}

// ProofText is what a hub signs to prove that it has its key. It can be nothing
// else that is signed with that key: neither JSON nor lines of keys. A challenge is
// 64 hexadecimal digits of lower case, of the client's own choice.
func ProofText(challenge string) ([]byte, error) {
	if b, err := hex.DecodeString(challenge); err != nil || len(b) != 32 || hex.EncodeToString(b) != challenge {
		return nil, fmt.Errorf("challenge %.80q is not 64 hexadecimal digits", challenge)
	}
	return []byte("pcapsule hub proof\n" + challenge + "\n"), nil
}

// PollRequest is an agent's long poll: its state now, answered when there is a
// task, or with none after a while. POST /api/v1/agents/{node}/poll.
type PollRequest struct {
	Time       manifest.Nanos    `json:"time"` // of the agent, as it sends this
	Clock      manifest.Clock    `json:"clock"`
	Versions   manifest.Versions `json:"versions"`
	Interfaces []Interface       `json:"interfaces"`
	Ring       Ring              `json:"ring"`
	Pins       []string          `json:"pins"`               // sessions for which chunks are pinned
	Streams    []string          `json:"streams,omitempty"`  // of which the ring holds chunks, or is about to
	Warnings   []string          `json:"warnings,omitempty"` // at most MaxWarnings texts, as manifests have them, of MaxWarning bytes
	Wait       manifest.Nanos    `json:"wait"`               // how long the agent will wait for an answer
}

// PollAnswer. Received and Sent are the hub's clock, so that the agent can tell
// its offset from four timestamps (RFC 5905, section 8).
type PollAnswer struct {
	Received manifest.Nanos `json:"received"`
	Sent     manifest.Nanos `json:"sent"`
	Tasks    []Task         `json:"tasks"` // every session this node has yet to complete
	Unpin    []string       `json:"unpin"` // sessions that are over: of Pins, or told of in the answer before
}

// A Task asks an agent for its part of a session: seal and pin what overlaps the
// window, upload it, then complete.
//
// A node that the snapshot is not of, and that recorded the stream of the
// cluster, is asked for that stream alone. It owes no account of packets.
type Task struct {
	Session  string            `json:"session"`
	Streams  []string          `json:"streams,omitempty"` // that are wanted; all when empty
	Window   manifest.Interval `json:"window"`            // in the hub's time
	Deadline time.Time         `json:"deadline"`          // in the hub's time; later answers are refused
	Report   manifest.Nanos    `json:"report,omitempty"`  // progress need not be reported more often
}

// An Object is something a node wants in the store.
type Object struct {
	Hash   chunker.Hash `json:"hash"` // BLAKE3-256 of the stored bytes
	SHA256 string       `json:"sha256"`
	Size   int64        `json:"size"`
	Kind   string       `json:"kind"` // manifest.KindChunk or KindInventory
	Ext    string       `json:"ext"`
	New    bool         `json:"new,omitempty"` // a chunk that was never offered: the hub need not look whether it is there
}

// GrantRequest asks where objects go. At most MaxGrants of them.
// POST /api/v1/sessions/{id}/nodes/{node}/grants.
type GrantRequest struct {
	Objects []Object `json:"objects"`
}

// MaxGrants is how many objects one GrantRequest may hold.
const MaxGrants = 256

// GrantAnswer has a Placement for each object, in order.
type GrantAnswer struct {
	Placements []Placement `json:"placements"`
}

// Placement is an object's key, with a grant when it is not in the store yet.
type Placement struct {
	Key   string       `json:"key"`
	Grant *store.Grant `json:"grant,omitempty"`
}

// CompleteRequest is a node's finished part: all it names is in the store.
// POST /api/v1/sessions/{id}/nodes/{node}/complete, answered 204.
type CompleteRequest struct {
	Node       manifest.Node `json:"node"`
	Kubernetes *Recording    `json:"kubernetes,omitempty"` // of every node of a cluster, also when it recorded nothing
}

// A Recording is what one node has of the stream of the cluster, and its account
// of the window: of the times when it did not record, another may tell. All times
// are by the node's clock.
type Recording struct {
	Stream   *manifest.Stream    `json:"stream,omitempty"` // none when no chunk overlaps the window
	Coverage []manifest.Interval `json:"coverage"`
	Gaps     []manifest.Gap      `json:"gaps,omitempty"`
}

// Ended says that DELETE /api/v1/snapshots/{ref} found no snapshot but a session
// under way, and ended it. The answer for a snapshot is 204.
type Ended struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Owner    string    `json:"owner"` // who ran the session, for people
	Created  time.Time `json:"created"`
	Dead     bool      `json:"dead"`               // its process had died
	Uploaded *Content  `json:"uploaded,omitempty"` // what was stored since it began and no snapshot holds; none when that takes long to count
}

// Content is an amount of it.
type Content struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// SweepReport says what a sweep did, or with dry_run=true what one would do.
// POST /api/v1/sweep.
type SweepReport struct {
	Scanned   int   `json:"scanned"`   // objects looked at
	Condemned int   `json:"condemned"` // found to be held by no snapshot
	Deleted   int   `json:"deleted"`   // of those, still unheld, and deleted
	Freed     int64 `json:"freed"`     // their stored bytes; of a dry run, those of the condemned
	Voided    int   `json:"voided"`    // sessions that were ended: past their deadline, or of a process that had died

	Kept string `json:"kept,omitempty"` // what the store keeps of what is deleted, for people; freed is 0 then
}
