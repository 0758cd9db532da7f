"""The reader in C and the one in Python give the same of whatever comes, or the same error."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatewright.built import PURE_PYTHON, quick
from gatewright.errors import ProtocolError
from gatewright.gateways.apisix import calls
from tests.gateways import oracle, pure
from tests.growth import growth

ROOT = Path(__file__).parents[2]

needs_quick = pytest.mark.skipif(quick is None, reason="nothing was built in C: no compiler was there")

HEADERS: list[tuple[str, str | None]] = [
    ("host", "shop.example.org"), ("User-Agent", "Mozilla/5.0"), ("cookie", "a=1"), ("Cookie", "b=2"), ("x-empty", ""),
    ("x_user", "ada"), ("x-latin", "caf\udce9"), ("x-utf8", "café ☕"), ("x-none", None), ("accept", "*/*"),
]  # fmt: skip
NAMES = ("host", "user-agent", "cookie", "x-empty", "x_user", "x-user", "x-utf8", "x-none", "absent", "", "é", "\udce9")


def request(headers: list[tuple[str, str | None]] = HEADERS, **fields: Any) -> bytes:
    usual = {
        "id": 7,
        "conf_token": 3,
        "src_ip": b"\x7f\0\0\1",
        "method": 2,
        "path": "/a b",
        "args": [("k", "v"), ("z", None)],
    }
    return oracle.http_req_call(**{**usual, **fields}, headers=headers)


def told(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ProtocolError as error:
        return str(error)


def seen_by(module: Any, frame: bytes) -> list[Any]:
    """All that can be had of a frame."""
    try:
        call = module.HttpReqCall(frame)
    except ProtocolError as error:
        return [str(error)]
    return [
        call.id, call.conf_token, call._table, call._layout, told(lambda: call.path), told(lambda: call.method),
        told(lambda: call.src_ip), told(call.read_args), told(call.read_headers), told(call.has_args),
    ]  # fmt: skip


def same(frame: bytes) -> None:
    ours, others = seen_by(calls, frame), seen_by(pure.calls, frame)
    assert ours == others
    if len(ours) == 1 or not isinstance(ours[8], list):
        return
    call = calls.HttpReqCall(frame)
    lowered = [(name.lower(), value) for name, value in ours[8]]
    for name in NAMES:
        values = [value for present, value in lowered if present == name]
        assert call.has_header(name) is bool(values)
        found = call.header_values(name)
        assert found is None or found == values
        like = [present for present, _ in lowered if present.replace("_", "-") == name.replace("_", "-")]
        assert call.may_have_alike((name, "q")) or not like


@needs_quick
@pytest.mark.parametrize(
    "frame",
    [
        request(), request([]), request(HEADERS * 12), request(path=""), request(args=[]), request(path="/caf\udce9"),
        request([("é", "1"), ("host", "a")]), request([("K", "kelvin"), ("x", "1")]), request([("x", "y" * 70000)]),
        request(id=0, conf_token=0), request(id=2**32 - 1, conf_token=2**32 - 1), b"\2\0\0\0", b"", b"\2\0\0\4\0\0\0\0",
    ],
)  # fmt: skip
def test_both_see_the_same(frame: bytes) -> None:
    same(frame)


@needs_quick
@pytest.mark.parametrize("seed", range(4))
def test_both_see_the_same_in_damaged_frames(seed: int) -> None:
    dice = random.Random(seed)
    frames = [request(), request(HEADERS[:3], args=[]), request([("a", "b")])]
    for _ in range(2500):
        frame = bytearray(dice.choice(frames))
        for _ in range(dice.randint(1, 3)):
            at = dice.randrange(4, len(frame))
            frame[at] = dice.choice((0, 1, 4, 8, 12, 127, 128, 255, frame[at] ^ 1, dice.randrange(256)))
        same(bytes(frame[: dice.choice((len(frame), len(frame), dice.randrange(4, len(frame))))]))


@needs_quick
def test_a_name_that_is_another_in_lower_case_is_found_by_python() -> None:
    """`K`, the sign for kelvin, is `k` in lower case."""
    call = calls.HttpReqCall(request([("x-\N{KELVIN SIGN}ey", "1")]))
    assert call.has_entry("x-key") is None
    assert call.has_header("x-key")


@needs_quick
def test_a_frame_that_is_no_bytes_is_an_error_of_the_callers() -> None:
    for wrong in ((), (1,), ("x",), (bytearray(8),), (b"", b"")):
        with pytest.raises(TypeError):
            calls.HttpReqCall(*wrong)
    with pytest.raises(TypeError):
        calls.HttpReqCall(frame=request())


@needs_quick
def test_nothing_is_left_behind() -> None:
    """What is made in C goes with its last user."""
    from gatewright.gateways.apisix import _quick

    whole, broken = request(), request()[:-40]

    def look(_: str) -> None:
        for frame in (whole, broken):
            for _ in range(200):
                seen_by(calls, frame)
                call = calls.HttpReqCall(frame)
                for name in NAMES:
                    told(lambda: call.has_header(name))  # noqa: B023
                    told(lambda: call.header_values(name))  # noqa: B023
                    told(lambda: call.may_have_alike((name,)))  # noqa: B023

    assert growth(look, whole, _quick.Request, calls.HttpReqCall) < 20_000


@pytest.mark.parametrize("wanted", [True, False])
def test_python_does_it_alone_where_that_is_asked_for(wanted: bool) -> None:
    environ = {name: value for name, value in os.environ.items() if name != PURE_PYTHON}
    if wanted:
        environ[PURE_PYTHON] = "1"
    code = (
        "from gatewright import built; from gatewright.gateways.apisix import calls; "
        "print(built.quick is None, calls.HttpReqCall.__mro__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, cwd=ROOT
    )
    python = wanted or quick is None
    assert run.stdout.startswith(str(python))
    assert ("ShapedRequest" in run.stdout) is python


@pytest.mark.long
def test_the_package_is_built_with_a_compiler_and_without(tmp_path: Path) -> None:
    """With one the wheel is this platform's; without, the same package does it all in Python."""
    for compiler, tag in (("cc", "cp311-abi3"), ("/no/such/compiler", "py3-none-any")):
        wheels = tmp_path / tag
        environ = {**os.environ, "CC": compiler}
        environ.pop(PURE_PYTHON, None)
        source = tmp_path / f"source-{tag}"
        for name in ("gatewright", "apisix", "kong_pdk", "lua"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, source]
        subprocess.run(build, env=environ, check=True)
        (wheel,) = wheels.glob("*.whl")
        assert tag in wheel.name
        site = tmp_path / f"site-{tag}"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
        subprocess.run(install, check=True)
        code = "from gatewright import built; print(built.quick and built.parts and built.turn, built.__file__)"
        shown = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=True, cwd=tmp_path,
        ).stdout  # fmt: skip
        assert shown.startswith("None") is (tag == "py3-none-any")
        assert str(site) in shown
