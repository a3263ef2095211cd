#!/bin/sh
# Builds a pinned tool and prints the path of its binary.
#
#     tools/build.sh NAME     NAME is a folder beside this script: minio, versitygw
#
# NAME is a nested module with one tool directive, so that go.mod and go.sum pin
# the tool and its dependencies without touching pcapsule's own. The binary goes
# to a cache outside the tree, by name and version, and is built once: a second
# call only prints the path, and of two calls at once one waits for the other.
set -eu

fail() {
	echo "tools/build.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: tools/build.sh NAME"
name=$1
cd "$(dirname "$0")"
[ -f "$name/go.mod" ] || fail "no tool named '$name' in $(pwd)"
cd "$name"
export GOWORK=off CGO_ENABLED=0

package=$(go list -f '{{.ImportPath}}' tool)
version=$(go list -f '{{.Module.Version}}' tool)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pcapsule/tools
binary=$cache/$name-$version
if [ -x "$binary" ]; then
	echo "$binary"
	exit 0
fi

mkdir -p "$cache"
if command -v flock >/dev/null && [ -z "${PCAPSULE_TOOLS_LOCKED:-}" ]; then
	PCAPSULE_TOOLS_LOCKED=1 exec flock "$binary.lock" "$OLDPWD/build.sh" "$name"
fi
# Without flock two builds may run at once. Each writes a file of its own, and
# the rename decides.
temp=$binary.$$
trap 'rm -f "$temp"' EXIT
echo "tools/build.sh: building $name $version (minutes, the first time)" >&2
go build -mod=readonly -trimpath -ldflags='-s -w' -o "$temp" "$package" >&2
mv "$temp" "$binary"
echo "$binary"
