"""The commands of kong-pdk: a server for a directory of plugins, and one for a single plugin in its own file."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import msgpack

from gatewright import __version__
from gatewright.errors import ConfigError, GatewrightError
from gatewright.gateways.kong.dump import PROTOCOLS, dump, own_stdout, plugin_info
from gatewright.observe.logs import configure_logs
from gatewright.runtime.discovery import Discovery, Found, load_file
from gatewright.runtime.kong_modules import adapt, load_plugins
from gatewright.server.drivers.kong.driver import plan
from gatewright.server.run import run_runner
from gatewright.server.worker.process import WorkerPlan
from gatewright.settings import Address, load_settings

__all__ = ["start_dedicated_server", "start_server"]

_NEVER = 1e9  # seconds: Kong closes instances, and an idle one is never gone
DEFAULT_SOCKET_NAME = "python_pluginserver.sock"


def _parser(*, dedicated: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Kong Python plugin server (Gatewright)", allow_abbrev=False)
    add = parser.add_argument
    add("-p", "--kong-prefix", "-kong-prefix", dest="prefix", default="/usr/local/kong/", metavar="PREFIX",
        help="directory of the unix socket  [default: %(default)s]")  # fmt: skip
    add("-v", "--verbose", action="count", default=0, help="log more; twice: everything")
    add("--version", "-version", action="version", version=f"%(prog)s {__version__}")
    add("--socket-name", default=None, metavar="NAME", help="name of the socket in that directory")
    add("--listen-queue-size", type=int, default=4096, metavar="N",
        help="connections that may wait to be accepted  [default: %(default)s]")  # fmt: skip
    add("--no-lua-style", action="store_true",
        help="PDK calls give the value alone and raise errors, instead of giving (value, error)")  # fmt: skip
    add("--protocol", choices=sorted(PROTOCOLS), default="msgpack",
        help="what to speak with Kong  [default: %(default)s]")  # fmt: skip
    add("-m", "--multiprocessing", action="store_true", help="a process for each core")
    add("-g", "--gevent", action="store_true",
        help="run handlers in greenlets of gevent's, with the standard library patched to give way")  # fmt: skip
    if dedicated:
        add("--dump", "-dump", action="store_true", help="print what Kong wants to know of the plugin, as JSON")
    else:
        add("-d", "--plugins-directory", "-plugins-directory", dest="directory", type=Path,
            metavar="DIRECTORY", help="where the plugins are: a directory, or a single file")  # fmt: skip
        add("--plugin", dest="shipped", action="append", default=[], metavar="NAME",
            help="a plugin that comes with Gatewright (repeatable), besides or instead of a directory")  # fmt: skip
        add("--dedicated", help=argparse.SUPPRESS, type=json.loads)  # of `start_dedicated_server`, under -g
        add("--socket-per-plugin", action="store_true",
            help="listen at PREFIX/NAME.socket for each plugin, too: what Kong 3.9 and later expect")  # fmt: skip
        add("--dump-plugin-info", "-dump-plugin-info", dest="dump_info", metavar="NAME",
            help="print one plugin's information, as MessagePack")  # fmt: skip
        add("--dump-all-plugins", "-dump-all-plugins", dest="dump_all", action="store_true",
            help="print all plugins' information, as JSON")  # fmt: skip
    return parser


def start_server(arguments: Sequence[str] | None = None) -> None:
    """Serve a directory of plugins; ends the process."""
    parser = _parser(dedicated=False)
    args = parser.parse_args(arguments)
    if args.directory is None and not args.shipped:
        parser.error("which plugins? -d DIRECTORY, or --plugin NAME for one that comes along")
    if args.directory is not None and not args.directory.exists():
        parser.error(f"{args.directory} does not exist")
    if args.dump_info or args.dump_all:
        with own_stdout() as out:
            discovery = load_plugins(args.directory, args.shipped)
            _tell_errors(discovery)
            if args.dump_all:
                out.write(dump(list(discovery.plugins.values()), args.protocol))
            elif args.dump_info in discovery.plugins:
                out.write(msgpack.packb(plugin_info(discovery.plugins[args.dump_info])))
            else:
                known = ", ".join(sorted(discovery.plugins)) or "none"
                parser.error(f"there is no plugin {args.dump_info!r}; there are: {known}")
        sys.exit(0)
    discover = partial(load_plugins, args.directory, args.shipped)
    if args.dedicated:
        discover = partial(_load_dedicated, args.directory, args.dedicated)
        args.also = args.dedicated["also"]
    sys.exit(_serve(args, discover, args.socket_name or DEFAULT_SOCKET_NAME))


def start_dedicated_server(
    name: str, plugin: type[Any], _version: str | None = None, _priority: int = 0, _schema: Sequence[Any] = ()
) -> None:
    """Serve one plugin, from its own file; ends the process.

    Args:
        name: what Kong calls the plugin; must be unique.
        plugin: the class.
    """
    args = _parser(dedicated=True).parse_args()
    schema = _schema or getattr(sys.modules.get(plugin.__module__), "Schema", ())
    try:
        adapted = adapt(name, plugin, version=_version, priority=_priority, schema=schema)
    except ConfigError as error:
        print(f"kong_pdk: {name}: {error}", file=sys.stderr)
        sys.exit(2)
    if args.dump:
        with own_stdout() as out:
            out.write(dump([adapted], args.protocol))
        sys.exit(0)
    args.also = f"{name}.sock" if args.socket_name is None else None  # what it was called before
    source = getattr(sys.modules.get(plugin.__module__), "__file__", None) or name
    if args.gevent and Path(source).is_file():
        if "<locals>" in plugin.__qualname__:  # which is not there in a process that imports the file
            print(f"kong_pdk: {name}: -g needs its class at the top of {source}, not in a function", file=sys.stderr)
            sys.exit(2)
        _start_anew(source, args, {"name": name, "class": plugin.__qualname__, "version": _version,
                                   "priority": _priority, "schema": list(schema), "also": args.also})  # fmt: skip
    discovery = Discovery(found={name: Found(adapted, source, _version or "")})
    sys.exit(_serve(args, lambda: discovery, args.socket_name or f"{name}.socket"))


def _start_anew(file: str, args: argparse.Namespace, spec: dict[str, Any]) -> NoReturn:
    """Go on in a process that has not imported the plugin yet, nor what it uses: gevent has to be there first."""
    flags = ["-m"] * args.multiprocessing + ["-v"] * args.verbose + ["--no-lua-style"] * args.no_lua_style
    command = [
        *(sys.executable, "-m", "kong_pdk.cli", "-g", *flags, "-d", file, "-p", args.prefix),
        *("--socket-name", args.socket_name or f"{spec['name']}.socket", "--protocol", args.protocol),
        *("--listen-queue-size", str(args.listen_queue_size), "--dedicated", json.dumps(spec)),
    ]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)  # noqa: S606 - ourselves


def _load_dedicated(file: Path, spec: dict[str, Any]) -> Discovery:
    if (place := str(file.resolve().parent)) not in sys.path:
        sys.path.insert(0, place)  # as for a file that is run
    plugin = attrgetter(spec["class"])(load_file(file.resolve()))
    adapted = adapt(
        spec["name"], plugin, version=spec["version"], priority=spec["priority"], schema=spec["schema"]
    )  # fmt: skip
    return Discovery(found={spec["name"]: Found(adapted, str(file), spec["version"] or "")})


def _tell_errors(discovery: Discovery) -> None:
    for error in discovery.errors:
        print(f"plugin not loaded: {error}", file=sys.stderr)


def _refuse_rival() -> None:
    with contextlib.suppress(PackageNotFoundError):
        rival = version("kong-pdk")
        raise ConfigError(
            f"kong-pdk {rival} is installed, too, and which `kong_pdk` is imported is a matter of luck: "
            "pip uninstall kong-pdk"
        )


def _serve(args: argparse.Namespace, discover: Any, socket_name: str) -> int:
    def socket_of(name: str) -> Address:
        return Address(path=f"{args.prefix.rstrip('/')}/{getattr(args, 'also', None) or f'{name}.socket'}")

    def load() -> WorkerPlan:
        _refuse_rival()
        if args.gevent and importlib.util.find_spec("gevent") is None:
            raise ConfigError("-g needs gevent: pip install 'gatewright[gevent]'")
        if not Path(args.prefix).is_dir():
            raise ConfigError(f"the directory {args.prefix} doesn't exist: where is Kong's prefix? (-p)")
        flags = {
            "listen": f"unix:{Path(args.prefix) / socket_name}",
            "workers": "auto" if args.multiprocessing else None,
            "log_level": {0: "warning", 1: "info"}.get(args.verbose, "debug"),
        }
        settings = load_settings(flags=flags, environ=os.environ, defaults={"conf_expire": _NEVER}).settings
        return plan(
            settings,
            discover,
            protocol=args.protocol,
            lua_style=not args.no_lua_style,
            use_gevent=args.gevent,
            backlog=args.listen_queue_size,
            socket_of=socket_of if getattr(args, "socket_per_plugin", False) or getattr(args, "also", None) else None,
        )

    try:
        settings = load().settings
        configure_logs(level=settings.log_level, format=settings.log_format, file=settings.log_file)
        return run_runner(load)
    except GatewrightError as error:
        print(f"kong_pdk: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    start_server()
