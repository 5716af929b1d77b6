#!/bin/sh
# Builds DPDK's example ipsec-secgw from the distribution's source package against the installed libdpdk, and prints where it is.
# The sources come through an apt configuration of its own, which goes again: the machine's isn't touched.
set -eu

output=${1:?usage: build-ipsec-secgw.sh FOLDER}
mkdir -p "$output"
output=$(cd "$output" && pwd)
binary=$output/ipsec-secgw
version=$(dpkg-query -W -f='${source:Version}' libdpdk-dev)
[ -x "$binary" ] && [ "$(cat "$output/version" 2>/dev/null)" = "$version" ] && { echo "$binary"; exit 0; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial" "$work/cache/archives/partial" "$work/source"
. /etc/os-release
for suite in "$VERSION_CODENAME" "$VERSION_CODENAME-updates"; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done > "$work/parts/source.list"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security $VERSION_CODENAME-security main" \
    >> "$work/parts/source.list"
apt() {
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >&2
}
apt update
cd "$work/source"
apt source --download-only "dpdk=$version"
# Only the example, and what it includes from beside it.
tar -x -f dpdk_*.orig.tar.* --strip-components=1 --wildcards '*/examples/ipsec-secgw' '*/examples/common'
# It insists on ports that check IP checksums in hardware; virtual ones have nothing to check.
grep -q '\.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,' examples/ipsec-secgw/ipsec-secgw.c
sed -i 's/\.offloads = RTE_ETH_RX_OFFLOAD_CHECKSUM,/.offloads = 0,/' examples/ipsec-secgw/ipsec-secgw.c
make -C examples/ipsec-secgw shared >&2
cp examples/ipsec-secgw/build/ipsec-secgw-shared "$binary"
echo "$version" > "$output/version"
echo "$binary"
