#!/bin/sh
# Lua and Python plugins on the same APISIX: ./compare.sh -u http://127.0.0.1:9080 --routes apisix.yaml; --help tells more.
here=$(cd "$(dirname "$0")/.." && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m benchmarks.compare "$@"
