#!/bin/sh
# Installs what building and testing take and what is missing, on Debian 12. Does nothing when all is there.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)

# To build: a C toolchain, libclang for bindgen, DPDK, libIPSec_MB, cmake for aws-lc.
# To test: strongSwan as the remote peer, etcd as the registry among more than two appliances, tshark and scapy as oracles, testpmd (dpdk-dev) as a source that isn't ours, what sets up
# network namespaces.
packages='
build-essential pkg-config clang libclang-dev libdpdk-dev libfabric-dev libipsec-mb-dev cmake
strongswan-charon strongswan-swanctl strongswan-pki
etcd-server openssl
libcharon-extra-plugins libstrongswan-standard-plugins libstrongswan-extra-plugins
dpdk-dev tshark python3 python3-scapy python3-cryptography tcpdump iproute2 ethtool iputils-ping
'

fail() {
    echo "install-deps: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root or sudo is needed to run: $*"
    fi
}

rust_version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
[ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ] && PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
command -v cargo >/dev/null ||
    fail "cargo is missing, and Debian's own is too old: install Rust $rust_version or newer from https://rustup.rs"
found=$(rustc --version | cut -d ' ' -f 2)
[ "$(printf '%s\n%s\n' "$rust_version" "$found" | sort -V | head -n 1)" = "$rust_version" ] ||
    fail "Rust $found is too old: $rust_version or newer is needed (rustup update)"
for component in rustfmt clippy; do
    case $component in rustfmt) tool=cargo-fmt ;; clippy) tool=cargo-clippy ;; esac
    command -v $tool >/dev/null && $tool --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null || fail "$tool is missing: install Rust's component $component"
    rustup component add $component
done

command -v dpkg-query >/dev/null ||
    fail "only Debian is known here; elsewhere install the counterparts of:$(echo $packages)"
missing=''
for package in $packages; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "install-deps: installing$missing"
as_root apt-get -q update
# Without recommended packages: they would bring desktops' and servers' parts that nothing here uses.
# shellcheck disable=SC2086
as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing
