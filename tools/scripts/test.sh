#!/bin/bash
# Runs all tests and sums up. Tests that make network namespaces need root: as another user they run under sudo if that asks for
# no password, and are left out otherwise (each says so).
set -uo pipefail

cd "$(dirname "$0")/../.."
[ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ] && PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"

user=root
if [ "$(id -u)" -ne 0 ]; then
    user='an ordinary user: tests that need root were left out'
    if sudo -n true 2>/dev/null; then
        user='root, by sudo'
        # Built by this user, run by root.
        triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
        export "CARGO_TARGET_${triple}_RUNNER=sudo -E"
    fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
run() {
    echo "== $*"
    "$@" 2>&1 | tee -a "$log" || status=1
}

# Whole systems share two cores with what measures them: one at a time, after everything else.
systems=(-p vipsec-lab -p vipsec-tests)
run cargo test --locked --no-fail-fast --workspace --exclude vipsec-lab --exclude vipsec-tests
run cargo test --locked --no-fail-fast "${systems[@]}" -- --test-threads=1

awk -v user="$user" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
    /^test .* \.\.\. FAILED$/ { names = names "\n  failed: " $2 }
    END { printf "== %d tests passed, %d failed, %d ignored, in %d binaries, as %s%s\n", passed, failed, ignored, binaries, user, names }
' "$log"
exit "$status"
