#!/usr/bin/env bash
# What a GPU makes of the models: benches/gpu.py with the Python that is there. `benches/gpu.sh --help` says what it does.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${VTAGD_PEER_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "gpu: $python is missing: install Python 3.9 or newer, or name one in VTAGD_PEER_PYTHON" >&2; exit 1; }
exec "$python" "$here/gpu.py" "$@"
