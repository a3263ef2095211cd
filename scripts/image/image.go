package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"debug/elf"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
)

// rootfs holds the small files of the image, in their places.
//
//go:embed rootfs
var rootfs embed.FS

// defaultRoots is where Debian, Alpine and others have the public authorities.
const defaultRoots = "/etc/ssl/certs/ca-certificates.crt"

// inputs are what an image is made of.
type inputs struct {
	binary, roots string // files
	tag, version  string
}

// A file of an image; root owns it.
type file struct {
	path string // absolute
	mode int64
	data []byte
}

// settings are what a container runs by default. The names are Docker's.
type settings struct {
	User       string
	Env        []string
	Entrypoint []string
	WorkingDir string
	Labels     map[string]string
}

// An image before it has a form.
type image struct {
	arch     string // as Go calls it
	files    []file // by path
	settings settings
}

func newImage(in inputs) (*image, error) {
	binary, err := os.ReadFile(in.binary)
	if err != nil {
		return nil, fmt.Errorf("read the binary: %w (`make build` makes it)", err)
	}
	arch, err := architecture(binary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.binary, err)
	}
	roots, err := os.ReadFile(in.roots)
	if err != nil {
		return nil, fmt.Errorf("read the public authorities: %w (Debian's package ca-certificates has them; -roots names another file)", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", in.roots)
	}
	passwd, err := rootfs.ReadFile("rootfs/etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := rootfs.ReadFile("rootfs/etc/group")
	if err != nil {
		return nil, err
	}
	return &image{
		arch: arch,
		files: []file{
			{"/etc/group", 0o644, group},
			{"/etc/passwd", 0o644, passwd},
			{"/etc/ssl/certs/ca-certificates.crt", 0o644, roots},
			{"/usr/local/bin/pcapsule", 0o755, binary},
		},
		settings: settings{
			User:       "65532:65532",
			Env:        []string{"PATH=/usr/local/bin"},
			Entrypoint: []string{"/usr/local/bin/pcapsule"},
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":       "pcapsule",
				"org.opencontainers.image.description": "A flight recorder for Kubernetes traffic, with an archive that outlives the tool",
				"org.opencontainers.image.licenses":    "Apache-2.0",
				"org.opencontainers.image.version":     in.version,
			},
		},
	}, nil
}

// architecture is what a binary runs on. There is nothing to link with in the
// image.
func architecture(binary []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return "", fmt.Errorf("not a Linux binary: build it with GOOS=linux (%w)", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errors.New("linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("for %v: amd64 and arm64 are supported", f.Machine)
}

// archive is the image as `docker save` writes it, under one name.
func (img *image) archive(tag string) ([]byte, error) {
	layer, err := tarOf(withFolders(img.files))
	if err != nil {
		return nil, err
	}
	layerID := digest(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": img.arch, "os": "linux",
		"created": "1970-01-01T00:00:00Z",
		"config":  img.settings,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layerID}},
		"history": []map[string]any{{"created": "1970-01-01T00:00:00Z", "created_by": "scripts/image"}},
	})
	if err != nil {
		return nil, err
	}
	configName, layerName := digest(config)+".json", layerID+"/layer.tar"
	index, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{tag}, "Layers": []string{layerName},
	}})
	if err != nil {
		return nil, err
	}
	return tarOf([]file{
		{path: "/" + layerID, mode: folder},
		{layerName, 0o644, layer},
		{configName, 0o644, config},
		{"manifest.json", 0o644, index},
	})
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// folder is the mode of an entry that is no file.
const folder = 0o755 | 1<<30

// withFolders puts each folder in front of what is in it.
func withFolders(files []file) (all []file) {
	seen := map[string]bool{}
	for _, f := range files {
		var above []file
		for dir := path.Dir(f.path); dir != "/" && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			above = append([]file{{path: dir, mode: folder}}, above...)
		}
		all = append(append(all, above...), f)
	}
	return all
}

// tarOf makes a tar that depends on nothing but the files.
func tarOf(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.path, "/"), Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}
		if f.mode == folder {
			h.Typeflag, h.Name, h.Mode = tar.TypeDir, h.Name+"/", 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
