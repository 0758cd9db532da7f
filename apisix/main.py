"""`python3 apisix/main.py start`: the runner, as Apache's Python runner 0.1.0 was started.

Works in an empty environment and from any directory: the checkout this file belongs to is put on the import path, and
where its dependencies are not installed for the Python in use, the checkout's own virtual environment takes over.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def _own_interpreter() -> None:
    """Go on in the checkout's virtual environment if this Python lacks what the runner needs."""
    sys.path[:] = [str(CHECKOUT), *(place for place in sys.path if Path(place or ".").resolve() != CHECKOUT / "apisix")]
    try:
        import click  # noqa: F401
        import greenlet  # noqa: F401
        import msgspec  # noqa: F401
        import structlog  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        python = CHECKOUT / ".venv" / "bin" / "python"
        if not python.exists() or Path(sys.prefix).resolve() == python.parent.parent.resolve():
            sys.exit(f"{error.name} is not installed: run `make install` in {CHECKOUT}")
        os.execv(str(python), [str(python), __file__, *sys.argv[1:]])  # noqa: S606 - the process id must stay


if __name__ == "__main__":
    _own_interpreter()
    from apisix.start import main

    main()
