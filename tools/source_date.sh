#!/usr/bin/env bash
# The moment of the sources, in seconds since 1970, for whatever would write the time of the build: what SOURCE_DATE_EPOCH says, else
# the last commit, else (sources without git) the change log.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${SOURCE_DATE_EPOCH-}" ]; then
    echo "$SOURCE_DATE_EPOCH"
else
    git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md
fi
