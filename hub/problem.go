package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/pcapgen"
	"pcapsule/store"
)

// refuse is an error for the client: status, code, and one line for people.
func refuse(status int, code, format string, args ...any) *api.Error {
	return &api.Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *api.Error {
	return refuse(http.StatusBadRequest, api.CodeInvalid, format, args...)
}

func unavailable(format string, args ...any) *api.Error {
	return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, format, args...)
}

// stopping is the answer to what a hub that ends has not begun.
func stopping() *api.Error {
	return refuse(http.StatusServiceUnavailable, api.CodeStopping, "the hub is stopping: try again")
}

// problem says what an error means for the client.
func problem(err error) *api.Error {
	var e *api.Error
	var tooLarge *http.MaxBytesError
	var node *pcapgen.UnknownNodeError
	var iface *pcapgen.UnknownInterfaceError
	var mixed *pcapgen.MixedLinkTypesError
	var name *pcapgen.UnknownNameError
	var full *archive.RoomError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, api.CodeInvalid, "the request is larger than the %d bytes allowed", tooLarge.Limit)
	case errors.Is(err, archive.ErrNotFound):
		return refuse(http.StatusNotFound, api.CodeNotFound, "%v", err)
	case errors.Is(err, archive.ErrDecided):
		return refuse(http.StatusConflict, api.CodeNotCompleted, "%v", err)
	case errors.Is(err, archive.ErrNameTaken):
		return refuse(http.StatusConflict, api.CodeNameTaken, "%v", err)
	case errors.Is(err, archive.ErrMisdescribed):
		return refuse(http.StatusBadRequest, api.CodeInvalid, "%v", err)
	case errors.Is(err, archive.ErrAmbiguous):
		return refuse(http.StatusBadRequest, api.CodeInvalid, "%v", err)
	case errors.As(err, &node):
		return refuse(http.StatusNotFound, api.CodeUnknownNode, "%v", node)
	case errors.As(err, &iface):
		return refuse(http.StatusNotFound, api.CodeNotFound, "%v", iface)
	case errors.As(err, &name):
		return refuse(http.StatusNotFound, api.CodeUnknownName, "%v", name)
	case errors.Is(err, pcapgen.ErrNoKubernetes):
		return refuse(http.StatusUnprocessableEntity, api.CodeNotRecorded, "%v", err)
	case errors.As(err, &mixed):
		return refuse(http.StatusUnprocessableEntity, api.CodeMixedLinks, "%v", mixed)
	case errors.Is(err, pcapgen.ErrWindow), errors.Is(err, pcapgen.ErrManyNames):
		return invalid("%v", err)
	case errors.Is(err, archive.ErrRequires):
		return refuse(http.StatusForbidden, api.CodeForbidden, "%v", err)
	case errors.As(err, &full):
		return refuse(http.StatusInsufficientStorage, api.CodeNoSpace, "%v", full)
	case errors.Is(err, store.ErrNoSpace):
		return refuse(http.StatusInsufficientStorage, api.CodeNoSpace, "no space left in the store: free some, delete snapshots and sweep, or choose another store (%v)", err)
	case store.AsObstacle(err) != nil && !errors.Is(err, store.ErrForbidden), errors.Is(err, archive.ErrDamaged), errors.Is(err, chunker.ErrDamaged), errors.Is(err, store.ErrNotExist):
		return refuse(http.StatusInternalServerError, api.CodeDamaged, "%v: `pcapsule verify` says all that is wrong", err)
	case errors.Is(err, context.Canceled):
		return stopping()
	default:
		// Whatever else goes wrong, goes wrong at the store.
		return unavailable("the store does not do its part: %v", err)
	}
}

// writeError answers with err, whose status must not have been sent yet.
func writeError(w http.ResponseWriter, err error) {
	e := problem(err)
	switch e.Status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="pcapsule"`)
	}
	writeJSON(w, e.Status, e)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // our own types, all of which can be encoded
		panic(err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone
}

// bodyTime is how long a client may take to send a body. One that no handler
// reads, net/http reads before it sends the answer.
const bodyTime = 30 * time.Second

// readJSON decodes a request's body of at most limit bytes. A strict one may
// hold nothing that the hub does not know: it was typed by a person, perhaps
// wrongly. Agents of other versions may say more than this hub understands.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, strict bool, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	if strict {
		d.DisallowUnknownFields()
	}
	err := d.Decode(v)
	if err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("there is more than one JSON value")
		}
	}
	if err == nil { // the deadline of the body must not end a long answer
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return err
	case errors.Is(err, io.EOF):
		return invalid("the request has no body: want JSON")
	case err != nil:
		return invalid("the request's body cannot be read: %v", err)
	}
	return nil
}
