"""What a route says of prompts, answers and budgets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from gatewright.plugins._shared.addresses import ClientAddress
from gatewright.plugins._shared.keys import KEY_HELP, KeyTemplate
from gatewright.plugins._shared.limiting import Limit
from gatewright.plugins._shared.model import field
from gatewright.plugins._shared.redis_server import RedisConfig
from gatewright.plugins.llm_guard.personal import KINDS

__all__ = ["LlmGuardConfig", "Personal", "TokenBudget"]


class TokenBudget(msgspec.Struct, frozen=True, kw_only=True):
    """So many tokens in so much time."""

    tokens: Annotated[int, field("How many tokens, of prompts and answers together.", unit="tokens", ge=1)]
    period: Annotated[float, field("In how much time.", unit="seconds", gt=0, le=31_536_000)]
    window: Annotated[
        Literal["sliding", "fixed"],
        field(
            "`sliding`: of the last so many seconds, about; `fixed`: windows begin at multiples of the period (UTC)."
        ),
    ] = "sliding"

    def __post_init__(self) -> None:
        self.limit()

    def limit(self) -> Limit:
        """The limit, as stores know it."""
        return Limit.of(self.tokens, self.period, "sliding-window" if self.window == "sliding" else "fixed-window")


class Personal(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about personal data."""

    prompts: Annotated[
        Literal["off", "mask", "refuse"],
        field("Personal data in prompts: `mask` puts `<EMAIL_1>` in its place, `refuse` answers with 400."),
    ] = "off"
    answers: Annotated[
        Literal["off", "mask", "refuse"], field("Personal data in answers: likewise; `refuse` answers with 502.")
    ] = "off"
    restore: Annotated[
        bool, field("Put back into answers what was masked in their prompts; the model never sees it, the client does.")
    ] = False
    kinds: Annotated[
        tuple[str, ...],
        field(f"Which kinds: {', '.join(KINDS)}. Cards and IBANs count only if their check digits are right."),
    ] = tuple(KINDS)
    patterns: Annotated[
        dict[str, str], field("Further kinds: a name in capitals, and the regular expression that finds it.")
    ] = {}
    opaque: Annotated[
        Literal["refuse", "pass"],
        field("Images, files and token numbers, into which nobody looks here, where prompts are masked or refused."),
    ] = "refuse"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise ValueError(f"there is no kind {unknown[0]!r}, but {', '.join(KINDS)}")
        for name, pattern in self.patterns.items():
            if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,30}", name):
                raise ValueError(f"the pattern's name {name!r} isn't in capitals")
            try:
                found = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {name!r} is no regular expression: {error}") from None
            if found.match(""):
                raise ValueError(f"the pattern {name!r} finds nothing at all everywhere")
        if self.restore and self.prompts != "mask":
            raise ValueError("`restore` needs `prompts: mask`")


class LlmGuardConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked, and what it may cost."""

    models: Annotated[
        tuple[str, ...], field("Models that may be asked; `*` and `?` stand for any characters. None: any.")
    ] = ()
    max_prompt_tokens: Annotated[int, field("Tokens that a prompt may have; 0: any.", unit="tokens", ge=0)] = 0
    max_answer_tokens: Annotated[
        int, field("Tokens that an answer may have: what a request asks for is lowered to it; 0: any.", ge=0)
    ] = 0
    max_messages: Annotated[int, field("Messages that a conversation may have.", ge=1, le=100_000)] = 1000
    max_choices: Annotated[int, field("Answers that one request may ask for (`n`, `best_of`).", ge=1, le=128)] = 1
    max_body: Annotated[int, field("What a request may have.", unit="bytes", ge=1, le=16 << 20)] = 1 << 20
    max_answer: Annotated[
        int, field("What an answer may have; 0: what the gateway takes.", unit="bytes", ge=0, le=16 << 20)
    ] = 0
    stream: Annotated[
        Literal["refuse", "off", "pass"],
        field(
            "Requests for a streamed answer: `refuse` them, turn streaming `off` (clients get the whole as one JSON "
            "document), or let them `pass`, with an answer into which nobody looks."
        ),
    ] = "refuse"
    tokenizer: Annotated[
        Literal["length", "o200k_base", "cl100k_base"],
        field("How tokens are counted: by `length`, four bytes each, or exactly for OpenAI's newer or older models."),
    ] = "length"
    image_tokens: Annotated[int, field("What an image or a file counts.", unit="tokens", ge=0)] = 1000
    budget: Annotated[
        tuple[TokenBudget, ...],
        field("Budgets: a prompt that doesn't fit is refused with 429; answers are counted by what the upstream says."),
    ] = ()
    reserve: Annotated[
        int, field("Tokens that a request counts for its answer until that is known.", unit="tokens", ge=0)
    ] = 0
    key: Annotated[str, field(f"Whose budget it is. Parts are {KEY_HELP}.")] = "{consumer}"
    namespace: Annotated[
        str, field("Routes that say the same here have one budget together. Without it each route has its own.")
    ] = ""
    redis: Annotated[
        RedisConfig | None, field("Where to count for all workers and runners together; else each worker counts alone.")
    ] = None
    fail_open: Annotated[bool, field("When Redis can't be asked: let prompts pass, or answer with 503.")] = False
    trusted_proxies: Annotated[
        tuple[str, ...], field("Networks of proxies whose `forwarded_header` is believed, for `{client_ip}`.")
    ] = ()
    forwarded_header: Annotated[str, field("The header to which proxies append whom they speak for.", min_length=1)] = (
        "x-forwarded-for"
    )
    personal: Annotated[Personal, field("What is done about personal data.")] = Personal()

    def __post_init__(self) -> None:
        if self.stream == "pass" and self.personal.answers != "off":
            raise ValueError("a streamed answer can't be looked into: `personal.answers` goes not with `stream: pass`")
        if self.stream == "pass" and self.personal.restore:
            raise ValueError("nothing can be put back into a streamed answer: `restore` goes not with `stream: pass`")
        self.template()

    def template(self) -> KeyTemplate:
        """The key's."""
        return KeyTemplate(self.key, client=ClientAddress(self.trusted_proxies, self.forwarded_header))
