package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
)

// decode reads the JSON of an answer into out, which something other than a hub
// may have sent: what lacks the member that every such answer has is none, and
// null is no list.
func decode(b []byte, out any) error {
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) {
		return errors.New("it is null")
	}
	if err := json.Unmarshal(b, out); err != nil {
		return err
	}
	var must string
	list := false
	switch out.(type) {
	case *Hub:
		must = "public_key"
	case *[]Node:
		must, list = "name", true
	case *[]Snapshot:
		must, list = "id", true
	case *Snapshot, *Ended:
		must = "id"
	case *SweepReport:
		must = "scanned"
	case *PollAnswer:
		must = "sent"
	case *GrantAnswer:
		must = "placements"
	default:
		return nil
	}
	var all []map[string]json.RawMessage
	if list {
		if err := json.Unmarshal(b, &all); err != nil {
			return err
		}
	} else {
		all = make([]map[string]json.RawMessage, 1)
		if err := json.Unmarshal(b, &all[0]); err != nil {
			return err
		}
	}
	for _, members := range all {
		if v, ok := members[must]; !ok || bytes.Equal(v, []byte("null")) {
			return fmt.Errorf("it has no %q", must)
		}
	}
	return nil
}

// isPage tells whether an answer is a page for people. No hub sends one here.
func isPage(resp *http.Response) bool {
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return media == "text/html" || media == "application/xhtml+xml"
}

// strange is the error for an answer that is none of a hub. why may be empty.
func (c *Client) strange(resp *http.Response, why string) error {
	came := fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if to, err := resp.Location(); err == nil && resp.StatusCode/100 == 3 {
		return fmt.Errorf("%s redirects to %s://%s, which was not followed (%s): if that is the hub, name it with --hub or PCAPSULE_HUB", c.Base(), to.Scheme, to.Host, came)
	}
	if isPage(resp) {
		return fmt.Errorf("%s does not answer like a pcapsule hub, but with an HTML page (%s), as a proxy or login page does: check --hub or PCAPSULE_HUB", c.Base(), came)
	}
	if why != "" {
		came += ": " + why
	}
	return fmt.Errorf("%s does not answer like a pcapsule hub (%s): check --hub or PCAPSULE_HUB, and what stands between", c.Base(), came)
}
