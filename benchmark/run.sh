#!/bin/sh
# Drive a gateway over HTTP: ./run.sh -u http://127.0.0.1:9080/headers -c 100 -n 10000
here=$(cd "$(dirname "$0")/.." && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" "$here/benchmarks/http_load.py" "$@"
