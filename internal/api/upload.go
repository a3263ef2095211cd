package api

import (
	"context"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"pcapsule/store"
)

// ErrGrantOver is wrapped when an upload is refused because its grant has
// expired: ask for a new one. When that is refused at once as well, the store's
// credentials do not allow it.
var ErrGrantOver = errors.New("the store refuses the upload grant")

// GrantURL is the absolute URL of a grant, which may be relative to the hub.
func (c *Client) GrantURL(g *store.Grant) (string, error) {
	u, err := url.Parse(g.URL)
	if err != nil {
		return "", fmt.Errorf("grant for %q: %w", g.URL, err)
	}
	if u.IsAbs() {
		return u.String(), nil
	}
	base := *c.base
	base.Path += "/"
	if u.Path != "" && u.Path[0] == '/' {
		u.Path, u.RawPath = u.Path[1:], ""
	}
	return base.ResolveReference(u).String(), nil
}

// Upload puts body's size bytes where a grant allows it. It tries again as the
// patience of ctx allows; a grant that has expired is ErrGrantOver. It returns nil
// also when it finds something there: these bytes, by an attempt before this one
// or by somebody else; or others, which the hub finds out. The hub looks also for
// what a store has taken and not kept.
func (c *Client) Upload(ctx context.Context, g *store.Grant, body io.ReaderAt, size int64) error {
	_, err := c.upload(ctx, g, body, size)
	return err
}

// upload is Upload; taken says that it found something there.
func (c *Client) upload(ctx context.Context, g *store.Grant, body io.ReaderAt, size int64) (taken bool, err error) {
	target, err := c.GrantURL(g)
	if err != nil {
		return false, err
	}
	to, err := url.Parse(target)
	if err != nil {
		return false, fmt.Errorf("grant: %w", withoutQuery(err))
	}
	client := c.granted(to)
	err = c.retry(ctx, func() (again bool, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, io.NopCloser(io.NewSectionReader(body, 0, size)))
		if err != nil {
			return false, fmt.Errorf("make upload: %w", err)
		}
		if size == 0 {
			req.Body = http.NoBody
		}
		req.ContentLength = size
		for k, v := range g.Header {
			req.Header[k] = v
		}
		resp, err := client.Do(req)
		if err != nil {
			var unknown x509.UnknownAuthorityError
			if errors.As(err, &unknown) && !c.isHub(to) {
				return false, fmt.Errorf("upload: the store at %s shows a certificate of a CA that is not known here: add its CA to the file that --hub-ca names", to.Host)
			}
			if dialFailed(err) && !c.isHub(to) {
				return true, fmt.Errorf("upload: the store at %s, as the hub calls it, cannot be reached from here: %w", to.Host, withoutQuery(err))
			}
			return true, fmt.Errorf("upload: %w", withoutQuery(err))
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		code, says := refusal(resp, b)
		strange := func(why string) error {
			return fmt.Errorf("upload: what answers at %s is not the store, but perhaps a proxy or login page in its place (%s): check the way to it", to.Host, why)
		}
		switch {
		case resp.StatusCode == http.StatusCreated && c.isHub(to) && len(b) == 0 && !isPage(resp):
			return false, nil
		case (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated) && !c.isHub(to):
			if err := store.CheckStored(req.Header, resp.Header, b); err != nil {
				return true, strange(resp.Status + ": " + err.Error())
			}
			return false, nil
		case resp.StatusCode == http.StatusPreconditionFailed && !isPage(resp) && (code == "PreconditionFailed" || c.isHub(to)):
			taken = true
			return false, nil
		case resp.StatusCode == http.StatusRequestEntityTooLarge:
			return false, fmt.Errorf("upload: a proxy before the store at %s takes no bodies of this size: raise its limit, as with nginx's client_max_body_size (%s)", to.Host, resp.Status)
		case resp.StatusCode/100 == 3:
			return false, strange("it redirects: " + resp.Status + " to " + hostOf(resp))
		case resp.StatusCode/100 == 2, isPage(resp):
			return resp.StatusCode/100 == 2 || resp.StatusCode >= 500, strange(says)
		case resp.StatusCode == http.StatusInsufficientStorage, store.NoSpaceCode(code):
			return false, fmt.Errorf("upload: %w (%s)", store.ErrNoSpace, says)
		case resp.StatusCode == http.StatusForbidden:
			return false, fmt.Errorf("upload: %w (%s)", ErrGrantOver, says)
		case resp.StatusCode == http.StatusConflict, resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests:
			return true, fmt.Errorf("upload: %s", says)
		default:
			return resp.StatusCode >= 500, fmt.Errorf("upload: %s", says)
		}
	})
	return taken, err
}

// Bring puts an object of a node's part into the store, and returns its key. place
// is what the hub has said of it; when that is nil, Bring asks. After an upload
// that failed it asks for a fresh grant and tries again, if again says so, which is
// told why and may wait. An error of the hub's ends it.
//
// Where the store holds something already, Bring has the hub look what that is:
// the object, or else the hub names another place.
func (c *Client) Bring(ctx context.Context, session, node string, o Object, body io.ReaderAt, place *Placement, again func(error) bool) (string, error) {
	for taken := 0; ; {
		if place == nil {
			answer, err := c.Grants(ctx, session, node, GrantRequest{Objects: []Object{o}})
			if err != nil {
				return "", fmt.Errorf("ask where an object goes: %w", err)
			}
			place = &answer.Placements[0]
		}
		if place.Grant == nil {
			return place.Key, nil
		}
		found, err := c.upload(ctx, place.Grant, body, o.Size)
		if found && taken < maxTaken {
			taken++
			place, o.New = nil, false
			continue
		}
		if err == nil {
			return place.Key, nil
		}
		if ctx.Err() != nil || !again(err) {
			return "", err
		}
		place = nil // a grant may expire while others are used
	}
}

// maxTaken is how often in a row an object is placed anew. More than once takes
// somebody who puts other bytes there each time.
const maxTaken = 8

// refusal is what an answer says, in one line: S3's XML has its reason in Code
// and Message, a hub's is plain text.
func refusal(resp *http.Response, body []byte) (code, says string) {
	var x struct {
		Code    string
		Message string
	}
	if xml.Unmarshal(body, &x) == nil && x.Code != "" {
		return x.Code, fmt.Sprintf("%s: %s: %s", resp.Status, x.Code, x.Message)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return "", fmt.Sprintf("%s: %.200s", resp.Status, strings.ToValidUTF8(line, "?"))
}

// hostOf is where a redirect leads, without what it carries.
func hostOf(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil {
		return "nowhere"
	}
	return to.Scheme + "://" + to.Host
}

// withoutQuery keeps the signature of a presigned URL out of errors and logs.
func withoutQuery(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		if u, perr := url.Parse(ue.URL); perr == nil {
			return fmt.Errorf("%s: %w", u.Host, ue.Err)
		}
		return ue.Err
	}
	return err
}
