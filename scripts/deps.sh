#!/usr/bin/env bash
# Installs the Debian packages that `make $1` needs, or says which are missing.
set -euo pipefail

declare -A package=(
  [ip]=iproute2 [unshare]=util-linux
  [tshark]=tshark [capinfos]=tshark [mergecap]=tshark [dumpcap]=wireshark-common
  [tcpdump]=tcpdump [lz4]=lz4 [b3sum]=b3sum [zstd]=zstd [jq]=jq [rclone]=rclone
  [ssh-keygen]=openssh-client [gcc]=gcc [netsniff-ng]=netsniff-ng
  [clang-14]=clang-14 [llvm-strip-14]=llvm-14
  [etcd]=etcd-server [containerd]=containerd [runc]=runc [iptables]=iptables [conntrack]=conntrack
  [nsenter]=util-linux [sysctl]=procps [tc]=iproute2 [/usr/lib/cni/bridge]=containernetworking-plugins
)
case "${1:-}" in
  demo)  need=(ip) ;;
  test)  need=(ip unshare tshark capinfos mergecap dumpcap tcpdump lz4 b3sum zstd jq rclone ssh-keygen gcc etcd clang-14 llvm-strip-14) ;;
  e2e)   need=(ip tc unshare nsenter sysctl iptables conntrack containerd runc /usr/lib/cni/bridge tshark ssh-keygen) ;;
  generate) need=(clang-14 llvm-strip-14) ;;
  bench) need=(ip tshark mergecap dumpcap tcpdump netsniff-ng lz4 b3sum rclone etcd) ;;
  *) echo "usage: scripts/deps.sh demo|test|e2e|generate|bench" >&2; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
missing=()
for tool in "${need[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
# The race detector links with C, for which the compiler alone does not do.
if [ "$1" = test ] && [ ! -e /usr/include/errno.h ]; then missing+=(libc6-dev); fi
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
  exit 0
fi
echo "make $1 needs tools that are not here; on Debian and Ubuntu: sudo apt-get install ${missing[*]}" >&2
exit 1
