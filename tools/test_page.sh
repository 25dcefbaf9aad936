#!/usr/bin/env bash
# The page in a headless Chromium: its tests, a few of them with `short` (what `.ci/run` has), or with `screenshots` the pictures of docs/page.md. Called by
# `make test-page` and `make screenshots`. VTAGD and RTSP_SERVER name programs that are there; without them those of the working tree are built.
# Chromium and Node come from Debian, playwright-core and axe-core from npm, pinned with their hashes; nothing of them is part of vtagd.
# Exit code 69: one of them cannot be had here, so that nothing was tested.
set -euo pipefail
cd "$(dirname "$0")/.."

cannot_be_had() { printf 'test_page: %s\n' "$*" >&2; exit 69; }

# For seconds, at most: then all that was started ends with it, being of its group. A terminal's Ctrl-C reaches the group by the trap alone.
# (`--test-timeout` is not known to Debian 12's Node.)
within() {
    local code=0
    timeout --kill-after=60 "$@" </dev/null &
    trap 'kill $!' INT TERM
    wait $! || code=$?
    trap - INT TERM
    [ "$code" -lt 128 ] || wait $! || code=$?
    [[ $code != 124 && $code != 137 ]] || echo "test_page: the tests did not end within $1 seconds" >&2
    exit "$code"
}

there() { command -v "${CHROMIUM:-chromium}" >/dev/null && command -v node >/dev/null && command -v npm >/dev/null; }
# What is there is not asked for again: another Node than Debian's has an npm of its own, and none of Debian's goes with it.
missing=()
command -v "${CHROMIUM:-chromium}" >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
there || tools/setup/packages.sh "${missing[@]}" || true
there || cannot_be_had "there is no Chromium, Node or npm, and Debian's packages cannot be installed"
said=$(mktemp)
trap 'rm -f "$said"' EXIT
# A hash that is wrong is a fault; a registry that does not answer, or has no such package, is none.
if ! (cd tests/browser && npm ci --no-audit --no-fund --ignore-scripts --loglevel error) 2>"$said"; then
    cat "$said" >&2
    ! grep -qE 'code (E[45][0-9][0-9]|E(NOTFOUND|AI_AGAIN|CONN[A-Z]+|TIMEDOUT|NETUNREACH|HOSTUNREACH|NOTCACHED)|ERR_SOCKET_TIMEOUT)' "$said" \
        || cannot_be_had "npm's registry does not give playwright-core and axe-core"
    exit 1
fi
rm "$said"
trap - EXIT
if [ -z "${VTAGD-}" ]; then
    tools/cargo build --locked --workspace --features vtagd/kafka --bins
elif [ -z "${RTSP_SERVER-}" ]; then
    tools/cargo build --locked --workspace --features vtagd/kafka --bin rtsp_server
fi
case "${1-test}" in
test) within 2700 node --test --test-concurrency=1 tests/browser/*.test.mjs ;;
short) PAGE_TESTS=short within 600 node --test tests/browser/page.test.mjs ;;
screenshots) exec node tests/browser/screenshots.mjs ;;
*) echo "test_page: test, short or screenshots" >&2; exit 2 ;;
esac
