package main

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// program builds a small static program for Linux.
func program(t *testing.T, arch string) string {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "pcapsule")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// someRoot makes a certificate, in PEM form.
func someRoot(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func someInputs(t *testing.T, arch string) inputs {
	t.Helper()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, someRoot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return inputs{binary: program(t, arch), roots: roots, tag: "pcapsule:dev", version: "1.2.3"}
}

// entries are the files of a tar by name, and the names in order.
func entries(t *testing.T, data []byte) (files map[string][]byte, headers []*tar.Header) {
	t.Helper()
	files = map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
	}
}

func TestArchive(t *testing.T) {
	in := someInputs(t, "arm64")
	img, err := newImage(in)
	if err != nil {
		t.Fatal(err)
	}
	data, err := img.archive(in.tag)
	if err != nil {
		t.Fatal(err)
	}
	again, err := img.archive(in.tag)
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same inputs made another image (%v)", err)
	}

	outer, _ := entries(t, data)
	var index []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(outer["manifest.json"], &index); err != nil || len(index) != 1 || len(index[0].Layers) != 1 {
		t.Fatalf("manifest.json %s: %v", outer["manifest.json"], err)
	}
	if diff := cmp.Diff([]string{"pcapsule:dev"}, index[0].RepoTags); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	var config struct {
		Architecture, OS string
		Config           settings
		RootFS           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(outer[index[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	layer := outer[index[0].Layers[0]]
	if config.Architecture != "arm64" || config.OS != "linux" {
		t.Errorf("image for %s/%s, want linux/arm64", config.OS, config.Architecture)
	}
	if diff := cmp.Diff([]string{"sha256:" + digest(layer)}, config.RootFS.DiffIDs); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	if index[0].Config != digest(outer[index[0].Config])+".json" {
		t.Errorf("the name of the configuration %s is not its digest", index[0].Config)
	}

	files, headers := entries(t, layer)
	var names []string
	for _, h := range headers {
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() > 0 || h.Mode&0o022 != 0 {
			t.Errorf("%s: owner %d:%d, mode %04o, time %s", h.Name, h.Uid, h.Gid, h.Mode, h.ModTime)
		}
	}
	want := []string{
		"etc/", "etc/group", "etc/passwd", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt",
		"usr/", "usr/local/", "usr/local/bin/", "usr/local/bin/pcapsule",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for name, source := range map[string]string{"usr/local/bin/pcapsule": in.binary, "etc/ssl/certs/ca-certificates.crt": in.roots} {
		if b, err := os.ReadFile(source); err != nil || !bytes.Equal(files[name], b) {
			t.Errorf("%s is not what was given (%v)", name, err)
		}
	}
	if !strings.Contains(string(files["etc/passwd"]), "nonroot:x:65532:65532:") {
		t.Errorf("no user 65532 in\n%s", files["etc/passwd"])
	}
}

// The Dockerfile makes the same image.
func TestDockerfile(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(root + "/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := strings.Split(string(text), "\nFROM ")
	last := stages[len(stages)-1]
	if !strings.HasPrefix(last, "scratch\n") {
		t.Fatal("the last stage does not start from scratch: what does it bring along?")
	}
	const version = "1.2.3"
	got := settings{Labels: map[string]string{}, WorkingDir: "/"}
	sources := map[string]string{} // by destination
	for line := range strings.SplitSeq(strings.ReplaceAll(last, "$VERSION", version), "\n") {
		instruction, rest, _ := strings.Cut(line, " ")
		switch instruction {
		case "USER":
			got.User = rest
		case "ENV":
			got.Env = append(got.Env, rest)
		case "WORKDIR":
			got.WorkingDir = rest
		case "ENTRYPOINT":
			if err := json.Unmarshal([]byte(rest), &got.Entrypoint); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		case "LABEL":
			k, v, _ := strings.Cut(rest, "=")
			got.Labels[k] = strings.Trim(v, `"`)
		case "COPY":
			words := strings.Fields(strings.TrimPrefix(rest, "--from=build "))
			if len(words) != 2 {
				t.Fatalf("%s: this test knows copies of one file", line)
			}
			sources[words[1]] = words[0]
		case "scratch", "ARG", "#", "":
		default:
			t.Errorf("%s: this test does not know %s", line, instruction)
		}
	}
	in := someInputs(t, "amd64")
	in.version = version
	img, err := newImage(in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, img.settings); diff != "" {
		t.Errorf("settings (-Dockerfile +scripts/image):\n%s", diff)
	}
	for _, f := range img.files {
		source, ok := sources[f.path]
		delete(sources, f.path)
		if !ok {
			t.Errorf("%s is not in the Dockerfile", f.path)
		}
		if strings.HasPrefix(source, "/") {
			continue // of the stage that builds
		}
		info, err := os.Stat(filepath.Join(root, source))
		if err != nil {
			t.Error(err)
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, source))
		if err != nil || !bytes.Equal(b, f.data) || int64(info.Mode().Perm()) != f.mode {
			t.Errorf("%s is not %s (%v), or not of mode %04o", f.path, source, err, f.mode)
		}
	}
	for path := range sources {
		t.Errorf("%s is in the Dockerfile only", path)
	}
	if !regexp.MustCompile(`go build -trimpath -ldflags "-s -w -X main.version=\$VERSION" `).Match(text) {
		t.Error("the Dockerfile does not build as the Makefile does")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := someInputs(t, "amd64")
	for name, tc := range map[string]struct {
		in   inputs
		want string
	}{
		"no binary":    {inputs{binary: dir + "/none", roots: good.roots}, "`make build` makes it"},
		"a script":     {inputs{binary: write("script", "#!/bin/sh\n"), roots: good.roots}, "not a Linux binary"},
		"no roots":     {inputs{binary: good.binary, roots: dir + "/none"}, "ca-certificates"},
		"a text":       {inputs{binary: good.binary, roots: write("text", "hello\n")}, "holds no certificate"},
		"another arch": {inputs{binary: program(t, "riscv64"), roots: good.roots}, "amd64 and arm64 are supported"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newImage(tc.in); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}
