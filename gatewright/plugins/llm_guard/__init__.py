"""**llm-guard**: what may be asked of language models, by whom, and how much; personal data stays here.

It reads whole requests and whole answers, of OpenAI's and Anthropic's APIs and of all who copy them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final

from gatewright import NotAvailableError, Plugin, PluginError, Request, Response
from gatewright.plugins._shared.codings import CodingError, codings_of, unpack
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.limiting import Store, StoreFailedError, shared_memory
from gatewright.plugins._shared.redis_server import shared_server
from gatewright.plugins.llm_guard.conversations import (
    BadPromptError,
    Prompt,
    answer_texts,
    error_body,
    is_anthropic,
    read_json,
    usage_of,
    write_json,
)
from gatewright.plugins.llm_guard.options import LlmGuardConfig
from gatewright.plugins.llm_guard.personal import Masks, Vault, restored
from gatewright.plugins.llm_guard.tokens import counting

__all__ = ["LlmGuard"]

_LEFT: Final = "llm-guard"
"""Under this name the request phase leaves in `request.ctx` what the response phase needs."""
_OFF_THE_LOOP: Final = 1 << 15
"""Bytes of a body from which on it's worked on in a thread."""
_SECOND: Final = 1_000_000
_MOST_ANSWER: Final = 16 << 20


class LlmGuard(Plugin[LlmGuardConfig]):
    """Checks prompts and answers of language models, and counts their tokens."""

    name = "llm-guard"
    version = "1.0.0"
    priority = 770

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._count: Callable[[str], int] = len
        self._key = own.template()
        self._limits = tuple(each.limit() for each in own.budget)
        self._masks = Masks(own.personal.kinds, own.personal.patterns)
        self._looks = own.personal.answers != "off" or own.personal.restore
        self._requests = counter("llm_guard_requests", "Requests, by what came of them.", ["route", "result"])
        self._tokens = counter("llm_guard_tokens", "Tokens that were counted.", ["route", "kind"])
        self._store: Store | None = None
        self._release: Callable[[], Awaitable[None]] | None = None

    async def setup(self) -> None:
        """Learn to count, and get at the store, where there are budgets."""
        self._count = await asyncio.to_thread(counting, self.config.tokenizer)
        if not self._limits:
            return
        if self.config.redis is None:
            self._store = shared_memory(100_000)
            self.log.warning("tokens are counted in this process alone; name a Redis (`redis`) to count for all")
            return
        from gatewright.plugins._shared.limiting.redis_store import RedisStore

        server, self._release = await shared_server(self.config.redis, plugin=self.name)
        self._store = server.kept(RedisStore)

    async def teardown(self) -> None:
        """Let go of the store."""
        if self._release is not None:
            await self._release()

    # --- prompts

    async def on_request(self, request: Request) -> Response | None:
        """Check a prompt, count it, and mask what is in it."""
        anthropic = is_anthropic(request.path, request.headers)
        try:
            body = await self._body(request)
            vault: Vault = {}
            check = partial(self._checked, body, anthropic, vault)
            tokens, changed = await asyncio.to_thread(check) if len(body) > _OFF_THE_LOOP else check()
        except BadPromptError as error:
            status = 403 if error.param == "model" else 400
            return self._refused(request, status, str(error), "refused", error.param)
        except CodingError as error:
            return self._refused(request, 400, str(error), "refused")
        refusal, charged = await self._charge(request, tokens + self.config.reserve)
        if refusal is not None:
            return refusal
        if charged or (vault and self.config.personal.restore):
            request.ctx[_LEFT] = {**charged, "prompt": tokens, "vault": vault if self.config.personal.restore else {}}
        request.set_body(changed)
        request.headers["content-type"] = "application/json"
        request.headers.discard("content-encoding")
        self._requests.add(request.route, "passed")
        self._tokens.add(request.route, "prompt", amount=tokens)
        return None

    async def _body(self, request: Request) -> bytes:
        try:
            body = await request.body()
        except NotAvailableError as error:
            raise BadPromptError(str(error)) from None
        if len(body) > self.config.max_body:
            raise BadPromptError(f"the request has {len(body)} bytes, and {self.config.max_body} are allowed")
        return unpack(body, codings_of(request.headers.get_all("content-encoding")), self.config.max_body)

    def _checked(self, body: bytes, anthropic: bool, vault: Vault) -> tuple[int, bytes]:
        """A prompt's tokens, and the body to be sent on."""
        own = self.config
        prompt = Prompt(read_json(body), max_messages=own.max_messages, max_choices=own.max_choices)
        if own.models and not any(fnmatchcase(prompt.model, pattern) for pattern in own.models):
            raise BadPromptError("this model may not be asked here", "model")
        if prompt.streams:
            if own.stream == "refuse":
                raise BadPromptError("answers can't be streamed here: leave `stream` out", "stream")
            if own.stream == "off":
                prompt.stream_off()
        tokens = prompt.tokens(self._count, own.image_tokens)
        if own.max_prompt_tokens and tokens > own.max_prompt_tokens:
            raise BadPromptError(f"the prompt has {tokens} tokens, and {own.max_prompt_tokens} are allowed")
        if own.max_answer_tokens:
            prompt.limit_answer(own.max_answer_tokens, anthropic=anthropic)
        if own.personal.prompts != "off":
            self._look_for_personal_data(prompt, vault)
        return tokens, write_json(prompt.document)

    def _look_for_personal_data(self, prompt: Prompt, vault: Vault) -> None:
        own = self.config.personal
        for container, key in prompt.spoken():
            value = container[key]
            if not isinstance(value, str | int | Decimal):
                if own.opaque == "refuse":
                    raise BadPromptError("images, files and token numbers, which can't be looked into, may not be sent")
                continue
            text = str(value)
            new = self._without_personal_data(text, vault)
            if new != text:
                container[key] = new
        for each in prompt.objects():
            names = [self._without_personal_data(name, vault) for name in each]
            if names != list(each):
                values = list(each.values())
                each.clear()
                each.update(zip(names, values, strict=True))

    def _without_personal_data(self, text: str, vault: Vault) -> str:
        if self.config.personal.prompts == "mask":
            return self._masks.mask(text, vault)
        if kind := self._masks.find(text):
            raise BadPromptError(f"the prompt holds personal data or a secret: {kind}")
        return text

    async def _charge(self, request: Request, cost: int) -> tuple[Response | None, dict[str, Any]]:
        """Count a prompt; a refusal where it doesn't fit, and what the response phase has to know."""
        store = self._store
        if store is None:
            return None, {}
        key = f"llm-guard:{self.config.namespace or request.route}:{await self._key.render(request)}"
        if any(cost > limit.most for limit in self._limits):
            return self._refused(request, 429, "the prompt is larger than the whole budget", "over budget"), {}
        try:
            verdict = await store.decide(key, self._limits, cost)
        except StoreFailedError as error:
            if self.config.fail_open:
                return None, {}
            self.log.debug("refused: %s", error)
            return self._refused(request, 503, "the budget can't be looked up just now", "store failed", after=1), {}
        if verdict.allowed:
            return None, {"key": key, "charged": cost}
        after = -(-max(state.retry for state in verdict.states if not state.allowed) // _SECOND)
        return self._refused(request, 429, "the budget of tokens is used up", "over budget", after=after), {}

    def _refused(
        self,
        request: Request,
        status: int,
        text: str,
        result: str,
        param: str | None = None,
        *,
        after: int | None = None,
    ) -> Response:
        self._requests.add(request.route, result)
        anthropic = is_anthropic(request.path, request.headers)
        code = result.replace(" ", "_")
        headers = {} if after is None else {"retry-after": str(max(1, after))}
        return Response.json(error_body(text, status, code, param, anthropic=anthropic), status, headers)

    # --- answers

    async def on_response(self, request: Request, response: Response) -> Response | None:
        """Count an answer, look into it, and put back what was masked."""
        own = self.config
        if not self._looks and self._store is None and not own.max_answer:
            return None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            if own.stream == "pass":
                return None
            return self._bad_answer(request, "the upstream streamed it, so that nobody can look into it")
        body = await response.body()
        if not body:
            return None
        try:
            if own.max_answer and len(body) > own.max_answer:
                raise PluginError(f"it has {len(body)} bytes, and {own.max_answer} are allowed")
            left = (request.ctx.get(_LEFT) or {}) if self._store is not None or own.personal.restore else {}
            codings = codings_of(response.headers.get_all("content-encoding"))
            look = partial(self._looked_into, body, codings, kind, dict(left.get("vault") or {}))
            used, said, changed = await asyncio.to_thread(look) if len(body) > _OFF_THE_LOOP else look()
        except PluginError as error:
            return self._bad_answer(request, str(error))
        if changed is not None:
            response.set_body(changed)
            for name in ("content-encoding", "etag", "content-md5", "digest", "content-digest", "repr-digest"):
                response.headers.discard(name)
        if used is None and response.status < 400:
            used = int(left.get("prompt", 0)) + said
        if used is not None:
            await self._settle(request, left, used)
        return None

    def _looked_into(
        self, body: bytes, codings: tuple[str, ...], kind: str, vault: Vault
    ) -> tuple[int | None, int, bytes | None]:
        """What an answer says that it cost, how many tokens it has as counted here, and its body, if that changes."""
        plain = unpack(body, codings, self.config.max_answer or _MOST_ANSWER)
        if kind != "application/json" and not kind.endswith("+json"):
            return None, 0, self._looked_into_text(plain, vault) if self._looks else None
        document = read_json(plain)
        said, changes, names = 0, False, dict(vault)
        used = usage_of(document)
        for container, key in list(answer_texts(document)) if self._looks or used is None else ():
            text = container[key]
            if isinstance(text, str):
                said += self._count(text) if used is None else 0
                new = self._cleaned(text, vault, names)
                changes |= new != text
                container[key] = new
            elif self.config.personal.answers == "refuse" and not isinstance(text, list):
                raise PluginError("it holds what can't be looked into")
        return used, said, write_json(document) if changes else None

    def _looked_into_text(self, plain: bytes, vault: Vault) -> bytes | None:
        """An answer that isn't JSON (an error page, say) is looked into as one text."""
        text = plain.decode("utf-8", "surrogateescape")
        new = self._cleaned(text, vault, dict(vault))
        return None if new == text else new.encode("utf-8", "surrogateescape")

    def _cleaned(self, text: str, vault: Vault, names: Vault) -> str:
        """A text of an answer as the client gets it.

        Args:
            text: the text.
            vault: what was masked in the prompt.
            names: all names that are taken: what is masked here mustn't be put back as something of the prompt's.
        """
        own = self.config.personal
        if own.answers == "mask":
            text = self._masks.mask(text, names)
        elif own.answers == "refuse" and (kind := self._masks.find(text)):
            raise PluginError(f"it holds personal data or a secret: {kind}")
        return restored(text, vault) if vault else text

    async def _settle(self, request: Request, left: dict[str, Any], used: int) -> None:
        """Count what the answer cost beyond what was counted for its prompt."""
        store, key = self._store, left.get("key")
        if store is None or not isinstance(key, str):
            return
        more = used - int(left.get("charged", 0))
        if more <= 0:
            return
        self._tokens.add(request.route, "answer", amount=more)
        try:
            await store.decide(key, self._limits, more, force=True)
        except StoreFailedError as error:
            self.log.warning("an answer's %d tokens could not be counted: %s", more, error)

    def _bad_answer(self, request: Request, why: str) -> Response:
        self.log.error("an answer was kept back: %s", why)
        return self._refused(request, 502, "the model's answer can't be shown", "bad answer")
