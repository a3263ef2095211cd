package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/pcapgen"
	"pcapsule/store"
)

// stallTime is how long a client may take no byte of a stream.
const stallTime = 2 * time.Minute

// exportPcap serves GET /api/v1/snapshots/{ref}/pcap.
func (h *Hub) exportPcap(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	req := pcapgen.Request{
		Nodes: q["node"], Interfaces: q["interface"],
		Pods: q["pod"], Namespaces: q["namespace"], Services: q["service"],
	}
	for key, values := range q {
		switch key {
		case "node", "interface", "pod", "namespace", "service":
		case "from", "to", "format", "plain":
			if len(values) > 1 {
				return invalid("%s is given %d times: want one", key, len(values))
			}
		default:
			return invalid("%.40q is no parameter of an export: there are from, to, node, interface, pod, namespace, service, format and plain", key)
		}
	}
	var err error
	if f := q.Get("format"); f != "" {
		if req.Format, err = pcapgen.ParseFormat(f); err != nil {
			return invalid("%v", err)
		}
	}
	if req.Range.From, err = queryTime(q, "from"); err != nil {
		return err
	}
	if req.Range.To, err = queryTime(q, "to"); err != nil {
		return err
	}
	if req.Plain, err = queryBool("plain", q.Get("plain")); err != nil {
		return err
	}
	snap, err := h.findTrusted(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	kind := "application/x-pcapng"
	if req.Format == pcapgen.Pcap {
		kind = "application/vnd.tcpdump.pcap"
	}
	out, err := h.stream(w, r, "pcap", kind, snap.Manifest.Name+"."+req.Format.String(), -1)
	if err != nil {
		return err
	}
	out.begins = func() {
		h.audit(r, "export-begins", nil, "snapshot", snap.ID, "name", snap.Manifest.Name, "query", r.URL.RawQuery)
	}
	src := pcapgen.Source{Manifest: snap.Manifest, Store: h.cfg.Store, Inventory: snap.Inventory}
	stats, err := pcapgen.Export(r.Context(), out, src, req)
	h.audit(r, "export", err, "snapshot", snap.ID, "name", snap.Manifest.Name, "query", r.URL.RawQuery, "packets", stats.Records, "bytes", stats.Bytes)
	out.empty = stats.Empty
	return out.end(err)
}

// queryTime is the time that a parameter tells; nil when it is not there.
func queryTime(q url.Values, name string) (*manifest.Nanos, error) {
	if !q.Has(name) {
		return nil, nil
	}
	t, err := manifest.ParseTime(q.Get(name))
	if err != nil {
		return nil, invalid("%s: %v", name, err)
	}
	return &t, nil
}

func queryBool(name, s string) (bool, error) {
	switch s {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid("%s is %.40q: want true or false", name, s)
}

// exportArchive serves GET /api/v1/snapshots/{ref}/archive.
func (h *Hub) exportArchive(w http.ResponseWriter, r *http.Request) error {
	snap, err := h.findTrusted(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	size, err := h.archive.TarSize(r.Context(), snap)
	if err != nil {
		return err
	}
	out, err := h.stream(w, r, "archive", "application/x-tar", snap.Manifest.Name+".tar", size)
	if err != nil {
		return err
	}
	out.begins = func() { h.audit(r, "download-begins", nil, "snapshot", snap.ID, "name", snap.Manifest.Name) }
	err = h.archive.WriteTar(r.Context(), out, snap, nil)
	h.audit(r, "download", err, "snapshot", snap.ID, "name", snap.Manifest.Name, "bytes", out.sent)
	return out.end(err)
}

// stream is an answer whose status is sent with its first byte, so that what
// goes wrong before is an error like any other. What goes wrong later breaks the
// connection; a client that reads trailers is told the reason instead.
type stream struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	trailers bool
	begins   func() // called before the first byte leaves, so that the audit log has it whatever happens then
	empty    string // why an export has no packets
	begun    bool
	sent     int64
	count    func(n int)
}

// stream prepares an answer of size bytes, or of unknown size when negative.
func (h *Hub) stream(w http.ResponseWriter, r *http.Request, form, kind, file string, size int64) (*stream, error) {
	if !r.ProtoAtLeast(1, 1) {
		return nil, refuse(http.StatusHTTPVersionNotSupported, api.CodeInvalid, "use HTTP/1.1: with HTTP/1.0 a stream that breaks off looks whole")
	}
	header := w.Header()
	header.Set("Content-Type", kind)
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": file}))
	header.Set("Cache-Control", "no-store")
	bytes := h.metrics.streamed.WithLabelValues(form)
	s := &stream{
		w: w, rc: http.NewResponseController(w),
		trailers: r.Header.Get(api.HeaderTrailers) == "1",
		count:    func(n int) { bytes.Add(float64(n)) },
	}
	if size >= 0 {
		header.Set(api.HeaderLength, strconv.FormatInt(size, 10))
	}
	switch {
	case s.trailers:
		header.Set("Trailer", api.TrailerError+", "+api.TrailerCode+", "+api.TrailerComplete+", "+api.TrailerEmpty)
	case size >= 0:
		header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	return s, nil
}

func (s *stream) Write(b []byte) (int, error) {
	if !s.begun {
		s.begun = true
		s.begins()
	}
	// Where deadlines are not supported there is no connection to stall.
	_ = s.rc.SetWriteDeadline(time.Now().Add(stallTime))
	n, err := s.w.Write(b)
	s.sent += int64(n)
	s.count(n)
	return n, err
}

// end ends the answer. It returns err when it can still be told in the usual
// way.
func (s *stream) end(err error) error {
	header := s.w.Header()
	switch {
	case err != nil && !s.begun:
		for _, k := range []string{"Trailer", "Content-Length", "Content-Disposition", api.HeaderLength} {
			header.Del(k)
		}
		return err
	case err != nil && s.trailers:
		e := problem(err)
		header.Set(api.TrailerError, oneLine(e.Message))
		header.Set(api.TrailerCode, e.Code)
		return nil
	case err != nil:
		panic(http.ErrAbortHandler) // net/http breaks the connection, and is quiet about it
	case s.trailers:
		header.Set(api.TrailerComplete, "true")
		if s.empty != "" {
			header.Set(api.TrailerEmpty, oneLine(s.empty))
		}
	}
	return nil
}

// oneLine makes text fit a header.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// getObject serves GET and HEAD of /api/v1/objects/{kind}/{group}/{name}: what
// snapshots consist of, as it is in the store, with ranges.
func (h *Hub) getObject(w http.ResponseWriter, r *http.Request) error {
	kind := r.PathValue("kind")
	key := kind + "/" + r.PathValue("group") + "/" + r.PathValue("name")
	if kind+"/" == manifest.SnapshotsDir {
		if _, _, err := manifest.ParseSnapshotPath(key); err != nil {
			return refuse(http.StatusNotFound, api.CodeNotFound, "%v", err)
		}
	} else if _, err := manifest.ParseObjectKey(key); err != nil {
		return refuse(http.StatusNotFound, api.CodeNotFound, "%v", err)
	}
	info, err := h.cfg.Store.Stat(r.Context(), key)
	if errors.Is(err, store.ErrNotExist) {
		return refuse(http.StatusNotFound, api.CodeNotFound, "there is no object %s", key)
	}
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	// What is at a key never changes, so the key is as good a tag as any.
	header.Set("ETag", strconv.Quote(key))
	body := &object{ctx: r.Context(), store: h.cfg.Store, info: info, rc: http.NewResponseController(w), begins: func() {}}
	if kind == manifest.KindChunk {
		body.begins = sync.OnceFunc(func() { h.audit(r, "object-begins", nil, "key", key) })
	}
	defer body.close()
	http.ServeContent(w, r, "", info.Modified, body)
	h.metrics.streamed.WithLabelValues("object").Add(float64(body.read))
	if kind == manifest.KindChunk && body.read > 0 {
		h.audit(r, "object", body.err, "key", key, "bytes", body.read)
	}
	return nil
}

// object reads a stored object from any offset on, as http.ServeContent wants
// it. When the store fails midway, the answer is shorter than its length says.
type object struct {
	ctx   context.Context
	store store.Store
	info  store.Info
	rc    *http.ResponseController
	off   int64
	open  io.ReadCloser // at off, or nil
	read  int64
	err   error

	begins func() // called before the first byte leaves
}

func (o *object) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += o.off
	case io.SeekEnd:
		off += o.info.Size
	}
	if off < 0 {
		return 0, fmt.Errorf("seek %s: before its start", o.info.Key)
	}
	if off != o.off {
		o.close()
		o.off = off
	}
	return off, nil
}

func (o *object) Read(b []byte) (int, error) {
	if o.off >= o.info.Size {
		return 0, io.EOF
	}
	if o.open == nil {
		if o.open, o.err = o.store.Get(o.ctx, o.info.Key, o.off, -1); o.err != nil {
			return 0, o.err
		}
	}
	o.begins()
	_ = o.rc.SetWriteDeadline(time.Now().Add(stallTime))
	n, err := o.open.Read(b)
	o.off += int64(n)
	o.read += int64(n)
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

func (o *object) close() {
	if o.open != nil {
		o.open.Close()
		o.open = nil
	}
}

// sweep serves POST /api/v1/sweep.
func (h *Hub) sweep(w http.ResponseWriter, r *http.Request) error {
	if err := h.awaitReady(r.Context()); err != nil {
		return err
	}
	dry, err := queryBool("dry_run", r.URL.Query().Get("dry_run"))
	if err != nil {
		return err
	}
	h.audit(r, "sweep-begins", nil, "dry_run", dry)
	var waits []string
	report, err := h.archive.Sweep(r.Context(), archive.SweepOptions{Now: h.now, DryRun: dry, Waiting: func(t archive.Attempt) {
		waits = append(waits, t.ID)
		h.awaits(t.ID, 1)
		h.log.Warn("a sweep waits for a session", "session", t.ID, "name", t.Name, "owner", t.Who(), "deadline", t.Deadline)
	}})
	for _, id := range waits {
		h.awaits(id, -1)
	}
	h.audit(r, "sweep", err, "dry_run", dry, "scanned", report.Scanned, "deleted", report.Deleted, "freed", report.Freed)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, api.SweepReport(report))
	return nil
}

// awaits notes that so many more sweeps wait for a session.
func (h *Hub) awaits(id string, more int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.awaited[id] += more; h.awaited[id] == 0 {
		delete(h.awaited, id)
	}
}

// isAwaited tells whether a sweep waits for a session.
func (h *Hub) isAwaited(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.awaited[id] > 0
}
