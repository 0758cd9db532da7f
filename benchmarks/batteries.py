"""What the plugins that come along cost: CPU time of a call over an empty plugin's, and the share of its throughput.

Each case has a runner of its own, on one core, with 64 calls under way; the empty plugin takes its turn after each.

    python -m benchmarks.batteries [--only NAME ...] [--seconds 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import frames
from benchmarks.run import Contestant, compile_tools, measure, runner_command, server
from tests.gateways import oracle

CONNECTIONS = 64
_SHOWN = ("rps", "cpu_us", "p99_us")


@dataclass
class Case:
    """One line.

    Attributes:
        text: what is measured.
        conf: the chain.
        headers: of the request, beside a browser's.
        args: of the request.
        answer: what the gateway answers to whatever it is asked.
        response: headers of an upstream's answer: the call is one of the response phase.
    """

    text: str
    conf: list[tuple[str, dict[str, Any]]]
    headers: list[tuple[str, str]] = field(default_factory=list)
    args: list[tuple[str, str]] = field(default_factory=list)
    answer: bytes = b""
    response: list[tuple[str, str]] | None = None


Prepare = Callable[[Path], Iterator[Case]]


def _empty(is_response: bool) -> Case:
    response = [("content-type", "application/json")] if is_response else None
    return Case("", [("empty", {})], answer=b"-", response=response)


def _transform(directory: Path) -> Iterator[Case]:
    body = json.dumps({"users": [{"name": "ada", "card": "4111111111111111"}] * 10}).encode()
    kind = [("content-type", "application/json")]
    for text, path in (("pointer", "/users/3/card"), ("JSONPath", "$.users[*].card")):
        conf = {"body": [{"op": "mask", "path": path}]}
        yield Case(f"a mask by {text}, {len(body)} bytes", [("response-transform", conf)], answer=body, response=kind)
    yield Case("one header", [("response-transform", {"headers": {"set": {"x-a": "b"}}})], answer=b"-", response=kind)


def _model(directory: Path) -> Iterator[Case]:
    from tests.plugins.ml_models import perceptron

    path = str(perceptron(directory / "net.onnx", [64, 2048, 2048, 512, 8]))
    values = ",".join(str(number / 64) for number in range(64))
    for rows in (1, 64):
        conf = {
            "model": {"kind": "onnx", "path": path},
            "inputs": [{"name": "x", "source": "header", "key": "x-features"}],
            "mode": "annotate",
            "batching": {"max_rows": rows},
        }
        text = f"a perceptron of 5.4 million weights, {f'batches of {rows} at most' if rows > 1 else 'one by one'}"
        yield Case(text, [("ml-model", conf)], headers=[("x-features", values)])


def _tokens(directory: Path) -> Iterator[Case]:
    from tests.plugins.jwt_auth.tokens import public_jwk, sign

    headers = [("authorization", f"Bearer {sign(kid='k', exp=4_102_444_800)}")]
    conf = {"jwks": {"keys": [public_jwk("RS256", kid="k")]}}
    yield Case("a token that is remembered", [("jwt-auth", conf)], headers=headers)
    yield Case("RS256, verified each time", [("jwt-auth", {**conf, "cache_size": 0})], headers=headers)


def _keys(directory: Path) -> Iterator[Case]:
    key = "k-2d1f4b6c8a9e0f13"
    yield Case("a key", [("api-key", {"keys": [{"key": key, "consumer": "ada"}]})], headers=[("x-api-key", key)])


def _passwords(directory: Path) -> Iterator[Case]:
    import bcrypt

    users = [{"consumer": "ada", "hash": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}]
    headers = [("authorization", "Basic YWRhOnNlY3JldA==")]
    yield Case("a password that is remembered", [("basic-auth", {"users": users})], headers=headers)


def _signatures(directory: Path) -> Iterator[Case]:
    from tests.plugins.test_hmac_auth import KEYS, signed

    headers = signed("@method", "@authority", headers={"@authority": "shop.example.org"})
    conf = {**KEYS, "covered": ["@method", "@authority"], "once": False, "max_age": 86400}
    named = [(name, value) for name, value in headers.items() if not name.startswith("@")]
    yield Case("a signature, one question to the gateway", [("hmac-auth", conf)], headers=named, answer=b"http")


def _schemas(directory: Path) -> Iterator[Case]:
    lines = {"type": "array", "items": {"required": ["sku"], "properties": {"sku": {"pattern": "^[A-Z0-9-]+$"}}}}
    schema = {"type": "object", "properties": {"email": {"format": "email"}, "lines": lines}}
    body = json.dumps({"email": "ada@example.com", "lines": [{"sku": f"AB-{n}", "n": n} for n in range(20)]}).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    conf = [("request-validator", {"schema": schema})]
    yield Case(f"a body of {len(body)} bytes", conf, headers=headers, answer=body)
    query = {"query_schema": {"properties": {"page": {"type": "integer"}}, "required": ["page"]}}
    yield Case("three arguments", [("request-validator", query)])


def _limits(directory: Path) -> Iterator[Case]:
    from tests.plugins.redis_servers import RedisProcess

    many = {"limits": [{"requests": 1_000_000, "period": 1}], "key": "{client_ip}"}
    yield Case("one limit, in memory", [("rate-limit", many)])
    redis = RedisProcess(directory).wait()
    try:
        conf = {**many, "redis": {"servers": [redis.address], "timeout": 5}}
        yield Case("one limit, in Redis on the same machine", [("rate-limit", conf)])
        conf["limits"] = [*many["limits"], {"requests": 1_000_000_000, "period": 3600, "algorithm": "fixed-window"}]
        yield Case("two limits, in Redis on the same machine", [("rate-limit", conf)])
    finally:
        redis.end()


def _answers(directory: Path) -> Iterator[Case]:
    from tests.plugins.redis_servers import RedisProcess

    yield Case("a request that is not in memory", [("cache", {})])
    redis = RedisProcess(directory).wait()
    try:
        yield Case("a request that is not in Redis", [("cache", {"redis": {"servers": [redis.address], "timeout": 5}})])
    finally:
        redis.end()


def _origins(directory: Path) -> Iterator[Case]:
    yield Case("a page of an origin that may", [("cors", {"allow_origins": ["https://*.example.com"]})],
               headers=[("origin", "https://a.example.com")])  # fmt: skip


def _circuits(directory: Path) -> Iterator[Case]:
    yield Case("a closed circuit", [("circuit-breaker", {})])


def _addresses(directory: Path) -> Iterator[Case]:
    yield Case("a list of three networks", [("ip-restriction", {"deny": ["10.0.0.0/8", "fd00::/8", "198.51.100.7"]})])


def _functions(directory: Path) -> Iterator[Case]:
    from tests.plugins.lambda_server import LambdaServer

    server = LambdaServer()
    server.functions["f"] = lambda event: {"statusCode": 200, "body": "done"}
    conf = {
        "function": "f",
        "region": "eu-west-1",
        "endpoint": server.url,
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    yield Case("a call of a function, Lambda's side not counted", [("aws-lambda", conf)])
    server.close()


def _prompts(directory: Path) -> Iterator[Case]:
    text = "Write to ada@example.org about her order of 2024, please. " * 20
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()
    for tokenizer in ("length", "o200k_base"):
        conf = {"models": ["gpt-*"], "max_prompt_tokens": 4000, "tokenizer": tokenizer}
        yield Case(f"a prompt of {len(body)} bytes, tokens by {tokenizer}", [("llm-guard", conf)], answer=body)
    conf = {"personal": {"prompts": "mask"}}
    yield Case(f"a prompt of {len(body)} bytes, masked", [("llm-guard", conf)], answer=body)


def _spans(directory: Path) -> Iterator[Case]:
    conf = {"exporters": [{"endpoint": "http://127.0.0.1:1"}]}
    yield Case("a span that isn't recorded", [("opentelemetry", {**conf, "sampler": "never"})])
    yield Case("a span that ends with the request phase", [("opentelemetry", {**conf, "ends": "request"})])


CASES: dict[str, Prepare] = {
    "opentelemetry": _spans,
    "llm-guard": _prompts,
    "api-key": _keys,
    "basic-auth": _passwords,
    "hmac-auth": _signatures,
    "jwt-auth": _tokens,
    "request-validator": _schemas,
    "aws-lambda": _functions,
    "response-transform": _transform, "ml-model": _model, "rate-limit": _limits,
    "cache": _answers, "circuit-breaker": _circuits, "cors": _origins, "ip-restriction": _addresses,
}  # fmt: skip


@contextmanager
def measured(case: Case, directory: Path, cores: tuple[int, int]) -> Iterator[tuple[Contestant, dict[str, Path]]]:
    """A runner for a case, and the frames to send it."""
    phase = "pre-req" if case.response is None else "post-resp"
    files = {name: directory / f"{name}.bin" for name in ("request", "answer", "prepare")}
    entries = [(name, json.dumps(conf)) for name, conf in case.conf]
    files["prepare"].write_bytes(oracle.prepare_conf(f"route#1#ext-plugin-{phase}#1", entries))
    files["answer"].write_bytes(oracle.extra_info_result(case.answer))
    if case.response is None:
        call = oracle.http_req_call(
            id=1, conf_token=1, src_ip=bytes((192, 0, 2, 7)), method=0, path="/catalogue/items",
            args=[*frames.ARGS, *case.args], headers=[*frames.HEADERS, *case.headers],
        )  # fmt: skip
    else:
        call = oracle.http_resp_call(id=1, conf_token=1, status=200, headers=case.response)
    files["request"].write_bytes(call)
    socket = directory / "runner.sock"
    with server(runner_command(socket), socket, cores[1]) as pids:
        yield Contestant("case", case.text, socket, pids, files["prepare"]), files


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="benchmarks.batteries", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    args.cores, args.pause = (cores[0], cores[-1]), 0
    _, loadgen = compile_tools()
    print(f"{'':<62}  {'req/s':>8}  {'CPU us':>7}  {'over empty':>10}  {'of empty':>8}  {'p99 us':>8}")
    for name in args.only:
        print(name)
        with tempfile.TemporaryDirectory(prefix="gatewright-bench-") as directory:
            for number, case in enumerate(CASES[name](Path(directory))):
                _turns(case, Path(directory) / str(number), loadgen, args)


def _turns(case: Case, directory: Path, loadgen: Path, args: argparse.Namespace) -> None:
    with ExitStack() as stack:
        contestants = []
        for number, each in enumerate((case, _empty(case.response is not None))):
            place = directory / str(number)
            place.mkdir(parents=True)
            contestants.append(stack.enter_context(measured(each, place, args.cores)))
        for _ in range(args.rounds):
            for contestant, files in contestants:
                measure(loadgen, contestant, files, CONNECTIONS, args)
        mine, empty = (
            {
                key: statistics.median(run[key] for run in each.results[CONNECTIONS])
                for key in ("rps", "cpu_us", "p99_us")
            }
            for each, _ in contestants
        )
    over, share = mine["cpu_us"] - empty["cpu_us"], mine["rps"] / empty["rps"]
    print(
        f"  {case.text:<60}  {mine['rps']:>8,.0f}  {mine['cpu_us']:>7.1f}  {over:>10.1f}  {share:>8.2f}"
        f"  {mine['p99_us']:>8.0f}"
    )


if __name__ == "__main__":
    main()
