package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/zeebo/blake3"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// readyPath is asked again and again while a hub starts.
const readyPath = "/readyz"

// A handler answers a request, or returns an error before it has begun to.
type handler func(w http.ResponseWriter, r *http.Request) error

type route struct {
	method, path string
	role         Role
	handle       handler
}

// routes is the whole API, and what openapi.json documents.
func (h *Hub) routes() []route {
	const v1 = api.Prefix
	all := []route{
		{"GET", v1 + "/hub", Viewer, h.getHub},
		{"GET", v1 + "/nodes", Viewer, h.listNodes},
		{"GET", v1 + "/snapshots", Viewer, soon(h.listSnapshots)},
		{"POST", v1 + "/snapshots", Operator, soon(h.createSnapshot)},
		{"GET", v1 + "/snapshots/{ref}", Viewer, soon(h.getSnapshot)},
		{"DELETE", v1 + "/snapshots/{ref}", Operator, soon(h.deleteSnapshot)},
		{"GET", v1 + "/snapshots/{ref}/pcap", Exporter, h.exportPcap},
		{"GET", v1 + "/snapshots/{ref}/archive", Exporter, h.exportArchive},
		{"GET", v1 + "/objects/{kind}/{group}/{name}", Object, h.getObject},
		{"POST", v1 + "/agents/{node}/poll", Agent, h.poll},
		{"POST", v1 + "/sessions/{id}/nodes/{node}/grants", Part, h.grant},
		{"POST", v1 + "/sessions/{id}/nodes/{node}/progress", Part, h.progress},
		{"POST", v1 + "/sessions/{id}/nodes/{node}/complete", Part, h.complete},
		{"POST", v1 + "/sweep", Operator, h.sweep},
		{"GET", v1 + "/openapi.json", Anyone, h.getOpenAPI},
		{"GET", "/healthz", Anyone, h.healthz},
		{"GET", readyPath, Anyone, soon(h.readyz)},
		{"GET", "/metrics", Anyone, plain(promhttp.HandlerFor(h.metrics.registry, promhttp.HandlerOpts{}))},
	}
	if g, ok := h.cfg.Store.(interface{ GrantHandler() http.Handler }); ok {
		// The grant in the URL is the permission.
		all = append(all, route{"PUT", store.GrantPath + "{kind}/{group}/{name}", Anyone, h.putGranted(g.GrantHandler())})
	}
	return all
}

// answerTime is how long those wait for the store who expect an answer at once:
// less than the minute after which clients think that the hub is away.
const answerTime = 45 * time.Second

// soon says that the store does not answer when it does not in answerTime.
func soon(next handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		err := next(w, r.WithContext(ctx))
		if err != nil && ctx.Err() != nil && r.Context().Err() == nil {
			return unavailable("the store does not answer: check it, and the network to it, then try again")
		}
		return err
	}
}

func plain(next http.Handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		next.ServeHTTP(w, r)
		return nil
	}
}

// Handler serves the hub's whole API.
func (h *Hub) Handler() http.Handler {
	routes := h.routes()
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.Handle(rt.method+" "+rt.path, h.serve(rt))
	}
	// What the mux itself would answer in plain text.
	mux.Handle("/", h.serve(route{handle: func(w http.ResponseWriter, r *http.Request) error {
		for _, rt := range routes {
			if rt.method != r.Method && matches(rt.path, r.URL.Path) {
				return refuse(http.StatusMethodNotAllowed, api.CodeInvalid, "%s is not served at %s", r.Method, r.URL.Path)
			}
		}
		return refuse(http.StatusNotFound, api.CodeNotFound, "nothing is served at %.200q: see %s/openapi.json for what is", r.URL.Path, api.Prefix)
	}}))
	return mux
}

// matches tells whether path is one that a route's pattern stands for.
func matches(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if want[i] != have[i] && !strings.HasPrefix(want[i], "{") {
			return false
		}
	}
	return true
}

// serve guards a route: who may send what from where is decided here, for all.
func (h *Hub) serve(rt route) http.Handler {
	origin := http.NewCrossOriginProtection()
	method, pattern := rt.method, rt.path
	if pattern == "" { // whatever a client makes up must not make series
		method, pattern = "any", "other"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		began := h.now()
		defer func() {
			h.metrics.requests.WithLabelValues(method, pattern, strconv.Itoa(rec.code())).Observe(h.now().Sub(began).Seconds())
		}()
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		if r.ContentLength != 0 {
			// A server without deadlines is a test's.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
		}
		known, err := h.admit(origin, r, rt.role)
		if err != nil {
			if e := problem(err); e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden {
				h.refused(known, e)
			}
			writeError(rec, err)
			return
		}
		err = rt.handle(rec, known)
		if err == nil || rec.status != 0 {
			return
		}
		if e := problem(err); e.Status >= 500 && r.Context().Err() == nil {
			level := slog.LevelWarn
			if rt.path == readyPath {
				level = slog.LevelDebug // that is an answer, as whoever asks expects
			}
			h.log.Log(r.Context(), level, "request failed", "method", r.Method, "path", r.URL.Path, "status", e.Status, "error", err)
		}
		writeError(rec, err)
	})
}

// admit lets a request in, or returns the error to answer. Its sender's identity
// is in the context of the request that it returns in either case.
func (h *Hub) admit(origin *http.CrossOriginProtection, r *http.Request, role Role) (*http.Request, error) {
	if err := h.checkHost(r.Host); err != nil {
		return r, err
	}
	if err := checkOrigin(origin, r); err != nil {
		return r, err
	}
	return h.authorise(r, role)
}

// checkHost refuses names that the hub was not told are its own. A web page
// whose name was made to resolve to this machine ("DNS rebinding") comes with
// such a name; it cannot come with an address.
func (h *Hub) checkHost(host string) error {
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return nil
	}
	if a, err := netip.ParseAddr(name); err == nil && a.Zone() == "" {
		return nil
	}
	for _, own := range h.cfg.Hosts {
		if strings.EqualFold(name, own) {
			return nil
		}
	}
	return refuse(http.StatusForbidden, api.CodeForbidden,
		"this hub does not go by the name %.100q: use its IP address, or start it with --host and this name", name)
}

// checkOrigin refuses what other web sites make a browser send.
func checkOrigin(p *http.CrossOriginProtection, r *http.Request) error {
	site := r.Header.Get("Sec-Fetch-Site")
	foreign := (site == "cross-site" || site == "same-site") && r.Header.Get("Sec-Fetch-Mode") != "navigate"
	if err := p.Check(r); err != nil || foreign {
		return refuse(http.StatusForbidden, api.CodeForbidden, "requests of other web sites are not served")
	}
	return nil
}

// recorder notes an answer's status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// getHub serves GET /api/v1/hub.
func (h *Hub) getHub(w http.ResponseWriter, r *http.Request) error {
	var proof []byte
	if challenge := r.URL.Query().Get("challenge"); challenge != "" {
		text, err := api.ProofText(challenge)
		if err != nil {
			return invalid("%v", err)
		}
		if proof, err = h.cfg.Signer.Sign(text); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, api.Hub{
		Version:   h.cfg.Version,
		Store:     store.Describe(h.cfg.Store),
		PublicKey: h.cfg.Signer.Public().SignersLine(),
		Time:      h.now().UTC(),
		Started:   h.began.UTC(),
		Signers:   h.signers, SignersSig: h.signersSig,
		Proof: string(proof),
	})
	return nil
}

// healthz says that the process serves.
func (h *Hub) healthz(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("ok\n"))
	return err
}

// readyz says that the store answers and that predecessors' sessions are taken
// over.
func (h *Hub) readyz(w http.ResponseWriter, r *http.Request) error {
	select {
	case <-h.ready:
	default:
		return unavailable("the hub is starting")
	}
	for _, err := range h.cfg.Store.List(r.Context(), manifest.IntentsDir) {
		if err != nil && !errors.Is(err, store.ErrNoList) && store.AsObstacle(err) == nil {
			return unavailable("the store does not answer: %v", err)
		}
		break
	}
	return h.healthz(w, r)
}

// putGranted serves PUT /grants/…: uploads to a store that has no server of its
// own.
func (h *Hub) putGranted(next http.Handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key := strings.TrimPrefix(r.URL.Path, store.GrantPath)
		object, err := manifest.ParseObjectKey(key)
		if err != nil {
			return refuse(http.StatusForbidden, api.CodeForbidden, "this is no valid upload grant: ask for a new one")
		}
		// A stalled upload holds a connection and a file.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(uploadTime))
		r.Body = &hashedBody{ReadCloser: r.Body, hash: blake3.New(), left: r.ContentLength, want: object.Hash}
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		h.metrics.uploaded.Add(float64(max(0, r.ContentLength)))
		if sum, err := parseSHA256(r.URL.Query().Get("sha256")); err == nil && rec.status == http.StatusCreated {
			// Without that, the chunk is read once before it is reused.
			_ = h.archive.Took(r.Context(), key, sum)
		}
		return nil
	}
}

// hashedBody ends a body with an error, before its last bytes, when it does not
// have the BLAKE3 hash that its key names. The store that takes the body knows the
// SHA-256 only.
type hashedBody struct {
	io.ReadCloser
	hash *blake3.Hasher
	left int64
	want chunker.Hash
}

func (b *hashedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.hash.Write(p[:n])
	b.left -= int64(n)
	if b.left <= 0 && n > 0 && chunker.Hash(b.hash.Sum(nil)) != b.want {
		return 0, fmt.Errorf("%w: the body does not have the hash in its key", store.ErrChecksum)
	}
	return n, err
}

// uploadTime is how long one upload may take: an object of 16 MiB over a line of
// 0.3 Mbit/s, with some patience.
const uploadTime = 10 * time.Minute
