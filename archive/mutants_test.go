package archive

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A mutant is this package with one mistake in the protocol.
type mutant struct {
	name string
	file string
	swap []string // pairs: text that is there once, and what takes its place
}

var mutants = []mutant{
	{"session reads condemned lists before it puts its intent", "session.go", []string{
		"	there, err := a.putOnce(ctx, manifest.IntentPath(in.ID), b, maxIntent)\n",
		"	condemned, _ := a.readCondemned(ctx)\n	there, err := a.putOnce(ctx, manifest.IntentPath(in.ID), b, maxIntent)\n",
		"	return &Session{Intent: in, a: a}, nil\n",
		"	return &Session{Intent: in, a: a, condemned: condemned}, nil\n",
		"	s.condemned, err = s.a.readCondemned(ctx)\n	return err\n",
		"	return nil\n",
	}},
	{"session forgets condemned lists and uses keys again", "session.go", []string{
		"	s.condemned, err = s.a.readCondemned(ctx)\n",
		"	_, err = s.a.readCondemned(ctx)\n",
	}},
	{"session ignores a void marker", "session.go", []string{
		"	if bytes.Equal(there, s.manifest) {\n",
		"	if there != nil {\n",
	}},
	{"session drops its intent before its manifest is there", "session.go", []string{
		"	key := manifest.ManifestPath(id)\n	there, err := s.a.putOnce(ctx, key, s.manifest",
		"	key := manifest.ManifestPath(id)\n	s.a.dropIntent(ctx, id)\n	there, err := s.a.putOnce(ctx, key, s.manifest",
	}},
	{"session puts its manifest before the signature", "session.go", []string{
		"	// First what makes the manifest complete.",
		"	if _, err := s.a.putOnce(ctx, manifest.ManifestPath(id), s.manifest, manifest.MaxManifest); err != nil {\n		return err\n	}\n	//",
	}},
	{"session goes on without its intent", "session.go", []string{
		"	if !announced {\n",
		"	if !announced && false {\n",
		"	if err := s.announced(ctx); err != nil {\n		return err\n	}\n",
		"",
	}},
	{"name is checked before the intent is there", "session.go", []string{
		"	there, err := a.putOnce(ctx, manifest.IntentPath(in.ID), b, maxIntent)\n",
		"	if _, err := a.checkName(ctx, in.Name, in.ID); err != nil {\n		return nil, err\n	}\n	there, err := a.putOnce(ctx, manifest.IntentPath(in.ID), b, maxIntent)\n",
		"	announced, err := s.a.checkName(ctx, s.Intent.Name, s.Intent.ID)\n",
		"	announced := true\n",
	}},
	{"names of snapshots are read before those of sessions", "names.go", []string{
		"	ids, err := a.undeleted(ctx)\n	if err != nil {\n",
		"	if err != nil {\n",
		"	attempts, _, err := a.attempts(ctx, map[string]bool{id: true}) // of which the intent was put just now\n",
		"	ids, err := a.undeleted(ctx)\n	if err != nil {\n		return false, err\n	}\n	attempts, _, err := a.attempts(ctx, map[string]bool{id: true}) // of which the intent was put just now\n",
	}},
	{"sweep does not look at intents", "sweep.go", []string{
		"	for _, t := range attempts {\n		if err := s.await(",
		"	for _, t := range attempts[:0] {\n		if err := s.await(",
	}},
	{"sweep does not read manifests again", "sweep.go", []string{
		"	if err := s.refresh(ctx); err != nil {\n		return err\n	}\n	s.candidates = ",
		"	s.candidates = ",
	}},
	{"sweep deletes before it condemns", "sweep.go", []string{
		"	if err := s.condemn(ctx); err != nil {\n",
		"	if err := s.delete(ctx); err != nil {\n		return err\n	}\n	if err := s.condemn(ctx); err != nil {\n",
	}},
	{"sweep condemns after it has looked at intents", "sweep.go", []string{
		"	if err := s.condemn(ctx); err != nil {\n		return err\n	}\n",
		"",
		"	if err := s.delete(ctx); err != nil {\n",
		"	if err := s.condemn(ctx); err != nil {\n		return err\n	}\n	if err := s.delete(ctx); err != nil {\n",
	}},
	{"sweep does not condemn", "sweep.go", []string{
		"	if err := s.condemn(ctx); err != nil {\n		return err\n	}\n",
		"",
	}},
	{"sweep believes an empty list of sessions", "sight.go", []string{
		"		s.seen[mark] = true\n",
		"",
		"		if marked {\n",
		"		if true {\n",
		"		if there {\n",
		"		if there && false {\n",
	}},
	{"sweep believes an empty list of snapshots", "sight.go", []string{
		"		if s.held.listed[mark] {\n",
		"		if mark != \"\" {\n",
		"	s.held.ids[id], s.held.marks[id] = true, true\n",
		"	s.held.marks[id] = true\n",
		"		if there {\n",
		"		if there && false {\n",
	}},
	{"sweep marks sessions only before it condemns", "sight.go", []string{
		"		mark, err := s.mark(ctx, true)\n",
		"		mark, err := marked[s], error(nil)\n		if mark == \"\" {\n			mark, err = s.mark(ctx, true)\n			marked[s] = mark\n		}\n",
		"// isMark tells",
		"var marked = map[*sweep]string{}\n\n// isMark tells",
	}},
	{"session believes an empty list of condemned lists", "condemned.go", []string{
		"	if err := a.readOn(ctx); err != nil {\n		return 0, err\n	}\n",
		"",
	}},
	{"session does not ask what the store requires once its intent is there", "session.go", []string{
		"	if err := s.a.Writable(ctx); err != nil {\n		return err\n	}\n",
		"",
	}},
	{"sweep does not ask what the store requires once it has condemned", "sweep.go", []string{
		"	if err := s.a.Writable(ctx); err != nil {\n		return err\n	}\n	if err := s.delete(",
		"	if err := s.delete(",
	}},
	{"sweep takes void markers away", "sweep.go", []string{
		"s.held.voids[id] && info.Key != manifest.ManifestPath(id)",
		"s.held.voids[id]",
	}},
	{"have means the same size", "genuine.go", []string{
		"	if info.Size == size && bytes.Equal(info.SHA256, sum[:]) {\n",
		"	if info.Size == size && (true || bytes.Equal(info.SHA256, sum[:])) {\n",
	}},
	{"a key that is taken holds what was to be put", "place.go", []string{
		"		cerr := s.confirm(ctx, k, body.Size, body.SHA256)\n",
		"		_, cerr := s.a.st.Stat(ctx, key)\n",
	}},
	{"a fresh generation comes before the condemned list", "place.go", []string{
		"	if err := s.a.condemn(ctx, []manifest.ObjectKey{k}); err != nil {\n		return fmt.Errorf(\"condemn what lies there, which is other bytes: %w\", err)\n	}\n",
		"",
	}},
	{"sweep goes on when it cannot read a manifest", "held.go", []string{
		"		if !dead {\n",
		"		if !dead && false {\n",
	}},
}

// TestMutants holds the interleaving tests against mistakes that they have to
// find, made in the source and built by the go tool.
func TestMutants(t *testing.T) {
	if os.Getenv("PCAPSULE_MUTANT") != "" {
		t.Skip("this is a mutant")
	}
	some := mutants
	if testing.Short() {
		some = mutants[:3]
	}
	for _, m := range some {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			out, err := m.test(t)
			if err == nil {
				t.Fatalf("the interleaving tests do not find this mistake")
			}
			_, found, ok := strings.Cut(out, "INVARIANT VIOLATED")
			if !ok {
				t.Fatalf("the tests failed, but not since data was lost:\n%s", out)
			}
			line, _, _ := strings.Cut(found, "\n")
			t.Logf("found%s", line)
		})
	}
}

// test runs the interleaving tests on the mutant.
func (m mutant) test(t *testing.T) (string, error) {
	path, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	source := string(b)
	for i := 0; i < len(m.swap); i += 2 {
		if n := strings.Count(string(b), m.swap[i]); n != 1 {
			t.Fatalf("this text is in %s %d times, want once; bring the mutant up to date:\n%s", m.file, n, m.swap[i])
		}
		source = strings.Replace(source, m.swap[i], m.swap[i+1], 1)
	}
	dir := t.TempDir()
	mutated := filepath.Join(dir, m.file)
	if err := os.WriteFile(mutated, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", filepath.Join(dir, "overlay.json"),
		"-run", "^(TestRandomWorlds|TestEveryInterleaving)$", "-failfast", "-count=1", "-vet=off", ".", "-sim.runs=1500")
	cmd.Env = append(os.Environ(), "PCAPSULE_MUTANT=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
