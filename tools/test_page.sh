#!/usr/bin/env bash
# The page in a headless Chromium: its tests, a few of them with `short` (what `.ci/run` has), or with `screenshots` the pictures of docs/page.md. Called by
# `make test-page` and `make screenshots`. VTAGD and RTSP_SERVER name programs that are there; without them those of the working tree are built.
# Chromium and Node come from Debian, playwright-core and axe-core from npm, pinned with their hashes; nothing of them is part of vtagd.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v chromium >/dev/null && command -v node >/dev/null && command -v npm >/dev/null || tools/setup/packages.sh chromium nodejs npm
(cd tests/browser && npm ci --no-audit --no-fund --ignore-scripts --loglevel error)
if [ -z "${VTAGD-}" ]; then
    tools/cargo build --locked --features vtagd/kafka -p vtagd -p rtsp-server --bins
elif [ -z "${RTSP_SERVER-}" ]; then
    tools/cargo build --locked -p rtsp-server
fi
case "${1-test}" in
test) exec node --test --test-concurrency=1 tests/browser/*.test.mjs ;;
short) PAGE_TESTS=short exec node --test tests/browser/page.test.mjs ;;
screenshots) exec node tests/browser/screenshots.mjs ;;
*) echo "test_page: test, short or screenshots" >&2; exit 2 ;;
esac
