// Package charts_test holds the tests of the Helm chart: what it renders for
// many values, what it refuses, and what a real API server makes of it.
package charts_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"pcapsule/tools"
)

// chart is the folder of the chart.
const chart = "pcapsule"

// kubeVersion is what rendering without a cluster goes by. (A helm that was not
// built by its makers takes itself for 1.20.)
const kubeVersion = "1.37.2"

var helmPath = sync.OnceValues(func() (string, error) { return tools.Path(context.Background(), "helm") })

// readAll reads every file below a folder, and so tells `go test` that the results
// depend on them: what other programs read it does not see, and would answer from
// its cache.
func readAll(t testing.TB, folder string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		_, err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// helm runs helm with files of its own, and returns its output; an error has what
// it said.
func helm(t testing.TB, kubeconfig string, args ...string) (string, error) {
	t.Helper()
	readAll(t, chart)
	path, err := helmPath()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+kubeconfig, "HOME="+home,
		"HELM_CACHE_HOME="+filepath.Join(home, "cache"), "HELM_CONFIG_HOME="+filepath.Join(home, "config"), "HELM_DATA_HOME="+filepath.Join(home, "data"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %s: %w: %s", args[0], err, stderr.String())
	}
	return stdout.String(), nil
}

// values are what --set takes, and files what --set-file takes.
type values map[string]string

func (v values) args() (args []string) {
	for k, s := range v {
		flag := "--set"
		if file, ok := strings.CutPrefix(s, "@"); ok {
			flag, s = "--set-file", file
		}
		args = append(args, flag, k+"="+s)
	}
	return args
}

// template renders the chart as release "pcapsule" in namespace "pcapsule".
func template(t testing.TB, v values, more ...string) (string, error) {
	t.Helper()
	args := append([]string{"template", "pcapsule", chart, "--namespace", "pcapsule", "--kube-version", kubeVersion}, more...)
	return helm(t, os.DevNull, append(args, v.args()...)...)
}

// An object is one document of the rendered chart.
type object struct {
	*unstructured.Unstructured
	typed runtime.Object // nil for kinds that other projects define
}

type objects []object

// render renders the chart and decodes every document strictly: a field that its
// kind does not have fails the test.
func render(t testing.TB, v values, more ...string) objects {
	t.Helper()
	out, err := template(t, v, more...)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, out)
}

func decode(t testing.TB, manifest string) (all objects) {
	t.Helper()
	for doc := range strings.SplitSeq(manifest, "\n---\n") {
		var content map[string]any
		if err := yaml.UnmarshalStrict([]byte(doc), &content); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(content) == 0 {
			continue
		}
		o := object{Unstructured: &unstructured.Unstructured{Object: content}}
		typed, err := scheme.Scheme.New(o.GroupVersionKind())
		switch {
		case runtime.IsNotRegisteredError(err):
		case err != nil:
			t.Fatal(err)
		default:
			if err := yaml.UnmarshalStrict([]byte(doc), typed); err != nil {
				t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
			}
			o.typed = typed
		}
		all = append(all, o)
	}
	return all
}

// find returns the object of a kind and name, and fails the test without one.
func find[T runtime.Object](t testing.TB, all objects, name string) (found T) {
	t.Helper()
	for _, o := range all {
		if typed, ok := o.typed.(T); ok && o.GetName() == name {
			return typed
		}
	}
	t.Fatalf("no %T %s was rendered", found, name)
	return found
}

// names are those of all objects of a kind.
func (all objects) names(gvk schema.GroupKind) (names []string) {
	for _, o := range all {
		if o.GroupVersionKind().GroupKind() == gvk {
			names = append(names, o.GetName())
		}
	}
	return names
}

// refused renders the chart and returns the message with which it is refused.
func refused(t testing.TB, v values) string {
	t.Helper()
	_, err := template(t, v)
	if err == nil {
		t.Fatalf("%v was rendered", v)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err.Error()
}
