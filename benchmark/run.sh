#!/bin/sh
# Measure a gateway over HTTP; `./run.sh -h` tells more.
set -e
cd "$(dirname "$0")/.."
python=.venv/bin/python
if [ ! -x "$python" ]; then
    python=python3
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        echo "run.sh: Python 3.11 or newer is needed: install it, or run 'make install' first" >&2
        exit 1
    }
fi
exec "$python" -m benchmarks.http_load "$@"
