#!/bin/sh
# Builds a pinned tool and prints the path of its binary.
#
#     tools/build.sh MODULE [TOOL]     such as: minio, helm, kubernetes kubelet
#
# MODULE is a folder beside this script: a nested module with tool directives, so
# that go.mod and go.sum pin the tool and its dependencies without touching
# pcapsule's own. TOOL is the last word of one directive's path, and may be left
# out where there is but one. The binary goes to a cache outside the tree, by name
# and version, and is built once: a second call only prints the path, and of two
# calls at once one waits for the other.
set -eu

fail() {
	echo "tools/build.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || [ $# -eq 2 ] || fail "usage: tools/build.sh MODULE [TOOL]"
module=$1
name=${2:-$1}
cd "$(dirname "$0")"
[ -f "$module/go.mod" ] || fail "no module of tools named '$module' in $(pwd)"
cd "$module"
export GOWORK=off CGO_ENABLED=0

# Versions are words without slashes, and so is the last word of a path.
found=$(go list -f '{{.ImportPath}} {{.Module.Version}}' tool | grep "/${2:-[^/]*} ") ||
	fail "module '$module' has no tool '$name'"
[ "$(echo "$found" | wc -l)" -eq 1 ] || fail "module '$module' has several tools: say which"
package=${found% *}
version=${found#* }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pcapsule/tools
binary=$cache/$name-$version
if [ -x "$binary" ]; then
	echo "$binary"
	exit 0
fi

mkdir -p "$cache"
if command -v flock >/dev/null && [ -z "${PCAPSULE_TOOLS_LOCKED:-}" ]; then
	PCAPSULE_TOOLS_LOCKED=1 exec flock "$binary.lock" "$OLDPWD/build.sh" "$@"
fi
# Without flock two builds may run at once. Each writes a file of its own, and
# the rename decides.
temp=$binary.$$
trap 'rm -f "$temp"' EXIT
echo "tools/build.sh: building $name $version (minutes, the first time)" >&2
go build -mod=readonly -trimpath -ldflags='-s -w' -o "$temp" "$package" >&2
mv "$temp" "$binary"
echo "$binary"
