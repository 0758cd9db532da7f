"""A record as something to run: a curl command, or a pytest test over `gatewright.testing`."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from gatewright.redaction import REDACTED

__all__ = ["body_bytes", "curl_of", "test_of"]

_OF_THE_CONNECTION: Final = frozenset(("connection", "content-length", "transfer-encoding", "keep-alive"))
"""What whoever sends a request writes itself."""
_OF_THE_GATEWAY: Final = frozenset(("server", "date", "content-length"))
"""What a gateway writes into its answers, if nobody else has."""


def body_bytes(body: Mapping[str, Any] | None) -> bytes:
    """The bytes of a record's body, as far as they were kept."""
    if body is None:
        return b""
    if "base64" in body:
        return base64.b64decode(body["base64"])
    return str(body.get("text", "")).encode("utf-8", "surrogateescape")


def curl_of(record: Mapping[str, Any], url: str) -> str:
    """The request as a curl command.

    Args:
        record: the record.
        url: the gateway's, without a path.
    """
    request = record["request"]
    body = body_bytes(request["body"])
    parts = ["curl", "-i", "--path-as-is", "--globoff"]  # or else curl takes [ and { for patterns of its own
    target = request["target"]
    if not target.startswith("/"):  # `*`, or a whole URL: a client writes neither of its own accord
        parts, target = [*parts, "--request-target", target], "/"
    if request["method"] != ("POST" if body else "GET"):
        parts += ["--head"] if request["method"] == "HEAD" else ["-X", request["method"]]
    names = {name.lower() for name, _ in request["headers"]}
    for name, value in request["headers"]:
        if name.lower() == "host" and value == url.partition("://")[2]:
            continue
        if name.lower() not in _OF_THE_CONNECTION:
            parts += ["-H", f"{name}: {value}" if value else f"{name};"]
    parts += [option for name in ("accept", "user-agent") if name not in names for option in ("-H", f"{name}:")]
    if body:
        if "content-type" not in names:
            parts += ["-H", "content-type:"]
        if "base64" in request["body"] or b"\0" in body:  # no argument can hold it
            piped = f"printf '%s' {base64.b64encode(body).decode()} | base64 -d | "
            return piped + _joined([*parts, "--data-binary", "@-", url + target])
        parts += ["--data-raw", body.decode("utf-8", "surrogateescape")]  # an @ in front of it is no file's name
    return _joined([*parts, url + target])


def _joined(parts: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, parts))


def test_of(record: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """The request as a pytest test that asserts what the plugins made of it.

    Args:
        record: the record.
        sources: the file of each plugin, by its name.

    Raises:
        LookupError: a plugin's file is not known, or no plugin was asked.
    """
    kong = record["gateway"]["name"] == "kong"
    chain = _chain(record)
    if not chain:
        raise LookupError("no plugin was asked about this request, so there is nothing to test")
    missing = [name for name, _ in chain if name not in sources]
    if missing:
        raise LookupError(f"it isn't known in which file these plugins are: {', '.join(missing)}")
    for phase in record["phases"]:
        for plugin in phase["plugins"]:
            if phase["refused"] and "must not be named" in str(plugin["why"]):
                raise LookupError(f"what was refused is the route, not the plugin: {plugin['why']}")
    files = list(dict.fromkeys(sources[name] for name, _ in chain))
    request = record["request"]
    when = datetime.fromtimestamp(record["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    title = f"{_docstring(request['method'], request['target'])}: recorded by the inspector on {when} UTC."
    if REDACTED in json.dumps(record):
        what_to_do = (
            "Secrets are blacked out: where a plugin looks at one, put another in its place, or reveal them first."
        )
        lines = [f'"""{title}', "", what_to_do, '"""', ""]
    else:
        lines = [f'"""{title}"""', ""]
    lines += ["from pathlib import Path", ""]
    lines += _imports(kong=kong)
    lines += ["", f"FILES = {_list(files)}"]
    lines += ["for file in FILES:"]
    lines += ['    assert Path(file).exists(), f"{file}: run this where `gatewright dev` ran, or change FILES"']
    lines += [f"PLUGINS = {_loading(kong=kong)}", "CHAIN = ["]
    lines += [f"    (PLUGINS[{_text(name)}], {_text(config)})," for name, config in chain]
    lines += ["]", "", "", f"def test_{_name(request)}():", *_upstream(record), *_client(record), *_sending(request)]
    lines += [f"    {line}" for line in _assertions(record)]
    return "\n".join(lines) + "\n"


def _imports(*, kong: bool) -> list[str]:
    module, function = ("kong_modules", "load_directory") if kong else ("discovery", "discover")
    return [
        "from gatewright import Response",
        f"from gatewright.runtime.{module} import {function}",
        "from gatewright.testing import TestClient",
        "",
    ]


def _loading(*, kong: bool) -> str:
    if not kong:
        return "discover(FILES).plugins"
    return "{name: plugin for file in FILES for name, plugin in load_directory(Path(file)).plugins.items()}"


def _chain(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plugins of all phases, each once, with their configurations."""
    chain: list[tuple[str, str]] = []
    for phase in record["phases"]:
        for plugin in phase["plugins"]:
            if (plugin["name"], plugin["config"]) not in chain:
                chain.append((plugin["name"], plugin["config"]))
    return chain


def _upstream(record: Mapping[str, Any]) -> list[str]:
    answer = next((sent["answer"] for sent in record["upstream"] if sent["answer"]), None)
    if answer is None:
        return []
    headers = [tuple(pair) for pair in answer["headers"] if pair[0].lower() not in _OF_THE_CONNECTION]
    return [
        "    upstream = Response(",
        f"        {answer['status']},",
        f"        {_pairs(headers)},",
        f"        {_bytes(body_bytes(answer['body']))},",
        "    )",
    ]


def _client(record: Mapping[str, Any]) -> list[str]:
    arguments = [f"gateway={_text(record['gateway']['name'])}"]
    stages = {phase["stage"] for phase in record["phases"]}
    if any(stage.startswith("gatewright") for stage in stages):
        arguments.append('protocol="lean"')
    if record["gateway"]["name"] == "apisix":
        arguments.append(f"version={_text(record['gateway']['version'])}")
        if "ext-plugin-post-req" in stages and "ext-plugin-pre-req" not in stages:
            arguments.append('request_phase="ext-plugin-post-req"')
        if "gatewright-after" in stages and "gatewright" not in stages:
            arguments.append('request_phase="ext-plugin-post-req"')
    if any(sent["answer"] for sent in record["upstream"]):
        arguments.append("upstream=upstream")
    return [f"    client = TestClient(CHAIN, {', '.join(arguments)}, raise_errors=False)"]


def _sending(request: Mapping[str, Any]) -> list[str]:
    headers = [tuple(pair) for pair in request["headers"] if pair[0].lower() not in _OF_THE_CONNECTION]
    arguments = [_text(request["method"]), _text(request["target"])]
    if headers:
        arguments.append(f"headers={_pairs(headers)}")
    if request["body"] is not None:
        arguments.append(f"body={_bytes(body_bytes(request['body']))}")
    return ["    answer = client.request(", *(f"        {argument}," for argument in arguments), "    )", ""]


def _assertions(record: Mapping[str, Any]) -> list[str]:
    answer = record["answer"]
    out = [f"assert answer.status == {answer['status']}"] if answer else []
    plugins = [plugin for phase in record["phases"] for plugin in phase["plugins"]]
    changed = [change for plugin in plugins for change in plugin["changes"]]
    if not record["upstream"]:
        out.append("assert not answer.upstream_requests")
    else:
        sent = record["upstream"][-1]
        if any(change["of"] in ("path", "query", "target") for change in changed):
            out.append(_equal("answer.upstream_request.target", sent["target"], _text(sent["target"])))
        for name in _names(changed, "header"):
            values = [value for present, value in sent["headers"] if present.lower() == name]
            out.append(_equal(f"answer.upstream_request.headers.get_all({_text(name)})", values, _list(values)))
        if any(change["of"] == "body" for change in changed) and "cut" not in (sent["body"] or {}):
            body = body_bytes(sent["body"])
            out.append(_equal("answer.upstream_request.body", body.decode("latin-1"), _bytes(body)))
    if answer:
        for name, last in _names(changed, "response header").items():
            values = [value for present, value in answer["headers"] if present.lower() == name]
            if name not in _OF_THE_GATEWAY or values == last:
                out.append(_equal(f"answer.headers.get_all({_text(name)})", values, _list(values)))
        answered = any(plugin["outcome"] == "answered" for plugin in plugins)
        if (answered or any(change["of"] == "response body" for change in changed)) and "cut" not in answer["body"]:
            body = body_bytes(answer["body"])
            out.append(_equal("answer.body", body.decode("latin-1"), _bytes(body)))
    return out


def _equal(what: str, value: str | Sequence[str], literal: str) -> str:
    """That something is as it was; where that is blacked out, that it's there."""
    texts = [value] if isinstance(value, str) else value
    blacked_out = any(REDACTED in text for text in texts)
    return f"assert {what}" if blacked_out else f"assert {what} == {literal}"


def _names(changes: Sequence[Mapping[str, Any]], of: str) -> dict[str, list[str] | None]:
    """Of what was changed, by name, what it was after the last change."""
    return {change["name"].lower(): change["after"] for change in changes if change["of"] == of}


def _name(request: Mapping[str, Any]) -> str:
    words = "".join(char if char.isascii() and char.isalnum() else "_" for char in request["target"].partition("?")[0])
    return f"{request['method'].lower()}_{words.strip('_') or 'root'}"[:60]


def _docstring(method: str, target: str) -> str:
    shown = f"{method} {target}"[:200].encode("ascii", "backslashreplace").decode()
    return shown.replace("\\", "\\\\").replace('"', '\\"')


def _text(text: str) -> str:
    return json.dumps(text) if text.isascii() and text.isprintable() else ascii(text)


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(_text, values)) + "]"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return "[]"
    lines = "".join(f"            ({_text(name)}, {_text(value)}),\n" for name, value in pairs)
    return f"[\n{lines}        ]"


def _bytes(data: bytes) -> str:
    return repr(data)
