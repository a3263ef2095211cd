package hub

import (
	_ "embed"
	"net/http"
)

// document describes the API for programs and people. A test holds the handlers
// against it.
//
//go:embed openapi.json
var document []byte

// getOpenAPI serves GET /api/v1/openapi.json.
func (h *Hub) getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(document)
	return err
}
