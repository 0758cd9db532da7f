"""Stands in for a gateway that stops: as nginx does, it kills its runner as soon as it has told it to end.

Called as `gateway_stops.py SOCKET COMMAND...`; prints which sockets' files were there while the runner served.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway_master import entitle
from gateway_restart import start


def main(path: str, *command: str) -> None:
    entitle("nginx", "nginx: master process nginx -p /srv/gateway")
    runner = start(list(command), Path(f"{path}.log"))
    print(*sorted(file.name for file in Path(path).parent.iterdir() if file.is_socket()), flush=True)
    runner.terminate()
    runner.kill()
    runner.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
