"""Requests to language models and their answers: their form, their texts, what they ask for and what they cost.

One reading serves the APIs of OpenAI (chat completions, completions, responses, embeddings), of Anthropic (messages)
and of all who copy them: every text below the fields that hold prompts counts, whatever it is called there, so that
nothing passes because it stands in an unusual place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from gatewright import PluginError

__all__ = [
    "BadPromptError",
    "Prompt",
    "answer_texts",
    "error_body",
    "is_anthropic",
    "read_json",
    "usage_of",
    "write_json",
]

_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_COUNTED: Final = ("tools", "functions", "response_format", "text")
"""Fields that cost tokens, too, but are the application's own."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample")
_SETTINGS: Final = frozenset(
    ("model", "stream", "stream_options", "n", "best_of", *_LIMITS, "temperature", "top_p", "top_k", "min_p", "stop",
     "stop_sequences", "seed", "logprobs", "top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty",
     "repetition_penalty", "parallel_tool_calls", "tool_choice", "function_call", "modalities", "service_tier", "store",
     "truncation", "include", "previous_response_id", "reasoning", "reasoning_effort", "thinking", "encoding_format",
     "dimensions", "echo", "background", "verbosity", *_COUNTED)
)  # fmt: skip
"""Fields in which nobody says anything. All others may hold what people and models said, be they known or not."""
_NO_TEXT: Final = frozenset(
    ("type", "role", "id", "name", "tool_call_id", "tool_use_id", "call_id", "media_type", "detail", "status", "format",
     "model", "object", "finish_reason", "stop_reason", "system_fingerprint", "service_tier", "signature")
)  # fmt: skip
_OPAQUE: Final = frozenset(
    ("image", "image_url", "input_image", "document", "file", "input_file", "input_audio", "audio", "container_upload")
)
_MOST_DEPTH: Final = 50

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

Place = tuple[Any, "str | int"]
"""A container and the key in it under which a text is."""


class BadPromptError(PluginError):
    """A request isn't one of these APIs, or asks for what isn't allowed."""

    def __init__(self, text: str, param: str | None = None) -> None:
        super().__init__(text)
        self.param = param


def read_json(body: bytes) -> dict[str, Any]:
    """A body as an object.

    Raises:
        BadPromptError: it isn't one.
    """
    try:
        document = _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadPromptError(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadPromptError("the body is not a JSON object")
    return document


def write_json(document: Mapping[str, Any]) -> bytes:
    """The object as a body: each name once, so that whoever reads it reads what was checked."""
    return _encode(document)


def _leaves(container: Any, key: str | int, depth: int = 0) -> Iterator[Place]:
    """The texts and numbers below a place; of what is opaque, and of a list of numbers, the place of the whole."""
    value = container[key]
    if depth > _MOST_DEPTH:
        raise BadPromptError(f"the request is nested deeper than {_MOST_DEPTH}")
    if isinstance(value, str | Decimal) or type(value) is int:
        yield container, key
    elif isinstance(value, list):
        if value and all(type(each) is int for each in value):
            yield container, key
            return
        for number in range(len(value)):
            yield from _leaves(value, number, depth + 1)
    elif isinstance(value, dict):
        if _is_opaque(value):
            yield container, key
            return
        for name in value:
            if name not in _NO_TEXT or not isinstance(value[name], str) or (name == "name" and "role" in value):
                yield from _leaves(value, name, depth + 1)


def _objects(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """All objects in a value, the inner ones first."""
    if depth <= _MOST_DEPTH and isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _objects(each, depth + 1)
        if isinstance(value, dict):
            yield value


def _is_opaque(value: Mapping[str, Any]) -> bool:
    if value.get("type") not in _OPAQUE:
        return False
    source = value.get("source")
    return not (
        value.get("type") == "document" and isinstance(source, dict) and source.get("type") in ("text", "content")
    )


class Prompt:
    """A request's document, checked."""

    def __init__(self, document: dict[str, Any], *, max_messages: int, max_choices: int) -> None:
        """Check a document.

        Raises:
            BadPromptError: it isn't of the right form; names the field.
        """
        self.document = document
        asked = [name for name in ("messages", "prompt", "input") if document.get(name) is not None]
        if len(asked) != 1:
            raise BadPromptError("a request has one of `messages`, `prompt` and `input`")
        if not isinstance(document.get("stream", False), bool | None):
            raise BadPromptError("`stream` is true or false", "stream")
        if asked == ["messages"]:
            self._check_messages(document["messages"], max_messages)
        elif not isinstance(document[asked[0]], str | list) or not document[asked[0]]:
            raise BadPromptError(f"`{asked[0]}` is a text or a list", asked[0])
        elif asked == ["input"] and len(document["input"]) > max_messages and isinstance(document["input"], list):
            raise BadPromptError(f"`input` has more than {max_messages} items", "input")
        for name in ("n", "best_of", *_LIMITS):
            value = document.get(name)
            if value is not None and (type(value) is not int or value < 1):
                raise BadPromptError(f"`{name}` is a whole number from 1 up", name)
            if name in ("n", "best_of") and value is not None and value > max_choices:
                raise BadPromptError(f"`{name}` is {max_choices} at most", name)

    @staticmethod
    def _check_messages(messages: Any, most: int) -> None:
        if not isinstance(messages, list) or not 1 <= len(messages) <= most:
            raise BadPromptError(f"`messages` is a list of 1 to {most}", "messages")
        for number, message in enumerate(messages):
            where = f"messages.{number}"
            if not isinstance(message, dict) or message.get("role") not in _ROLES:
                raise BadPromptError(f"`{where}` has no known role: {', '.join(sorted(_ROLES))}", where)
            content = message.get("content")
            if isinstance(content, list):
                if any(not isinstance(part, dict) or not isinstance(part.get("type"), str) for part in content):
                    raise BadPromptError(f"`{where}.content` is a list of objects with a `type`", where)
            elif content is not None and not isinstance(content, str):
                raise BadPromptError(f"`{where}.content` is a text or a list", where)

    @property
    def model(self) -> str:
        """Which model is asked; empty where the request doesn't say."""
        model = self.document.get("model", "")
        if not isinstance(model, str):
            raise BadPromptError("`model` is a text", "model")
        return model

    @property
    def streams(self) -> bool:
        """Whether a streamed answer is asked for."""
        return bool(self.document.get("stream"))

    def stream_off(self) -> None:
        """Ask for the whole answer at once."""
        self.document["stream"] = False
        self.document.pop("stream_options", None)

    def limit_answer(self, most: int, *, anthropic: bool) -> None:
        """Ask for so many tokens at most."""
        given = [name for name in _LIMITS if self.document.get(name) is not None]
        for name in given:
            self.document[name] = min(self.document[name], most)
        if not given and "input" in self.document:
            self.document["max_output_tokens"] = most
        elif not given:
            is_chat = "messages" in self.document and not anthropic
            self.document["max_completion_tokens" if is_chat else "max_tokens"] = most

    def spoken(self) -> Iterator[Place]:
        """The places of all that people and models said, numbers in it included, and of what is opaque."""
        for name in [name for name in self.document if name not in _SETTINGS]:
            yield from _leaves(self.document, name)

    def objects(self) -> Iterator[dict[str, Any]]:
        """All objects in what was said: their names are said, too."""
        for name, value in self.document.items():
            if name not in _SETTINGS:
                yield from _objects(value)

    def tokens(self, count: Callable[[str], int], opaque: int) -> int:
        """How many tokens the prompt has, with some for the form of each message.

        Args:
            count: counts those of a text.
            opaque: what is counted for an image or a file.
        """
        total = 3 * (1 + len(self.document.get("messages") or ()))
        for container, key in self.spoken():
            value = container[key]
            if isinstance(value, str | int | Decimal):
                total += count(str(value))
            else:
                total += len(value) if isinstance(value, list) else opaque
        for name in _COUNTED:
            if self.document.get(name):
                total += count(msgspec.json.encode(self.document[name]).decode())
        return total


def answer_texts(document: dict[str, Any]) -> Iterator[Place]:
    """The places of all texts of an answer, and of what is opaque."""
    for name in document:
        if name not in _NO_TEXT:
            for container, key in _leaves(document, name):
                if not isinstance(container[key], int | Decimal):  # times, and what it cost
                    yield container, key


def usage_of(document: Mapping[str, Any]) -> int | None:
    """How many tokens an answer says that it cost, with its prompt; `None` where it says nothing."""
    usage = document.get("usage")
    if not isinstance(usage, Mapping):
        return None
    numbers = {name: value for name, value in usage.items() if type(value) is int and value >= 0}
    parts = sum(
        numbers.get(name, 0)
        for name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens",
                     "cache_creation_input_tokens", "cache_read_input_tokens")
    )  # fmt: skip
    return max(parts, numbers.get("total_tokens", 0)) or None


_ANTHROPIC_PATH: Final = re.compile(r"/messages(/[a-z_]+)?/?$")


def is_anthropic(path: str, headers: Mapping[str, str]) -> bool:
    """Whether errors are to be told, and limits set, in Anthropic's way. What is checked doesn't depend on it."""
    return "anthropic-version" in headers or bool(_ANTHROPIC_PATH.search(path))


_TYPES: Final = {
    400: "invalid_request_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


def error_body(text: str, status: int, code: str, param: str | None, *, anthropic: bool) -> dict[str, Any]:
    """An error as the API's clients know it."""
    kind = _TYPES.get(status, "api_error")
    if anthropic:
        return {"type": "error", "error": {"type": kind, "message": text}}
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}
