"""A draft: what a plugin that may be skipped does to a call, carried out only if the plugin succeeds.

The plugin's handler gets a call of its own, a copy in which changes are made. At its end they are taken over; if it
fails they are not, and a thread or task of it that goes on past its deadline changes what nobody looks at any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from gatewright.call import REQUEST_BODY, RESPONSE_BODY, Asker, Call, Question, Recipe, find_header
from gatewright.datastructures import Headers
from gatewright.errors import NotAvailableError
from gatewright.runtime.copies import Copies

__all__ = ["Draft"]

_MAPPINGS = ("seen_headers", "seen_query", "seen_response_headers")
_PARTS = ("route", "path", "body", "asks", "warning", "kept_ctx", "consumer_change")
"""Which a call may keep elsewhere than in its `__dict__`."""
_CHANGES = ("path", "body", "status_change", "response_body", "asks", "consumer_change")
_LEARNED = (
    "read_body",
    "body_was_read",
    "read_response_body",
    "response_lost",
    "keeps_query",
    "is_head",
    "forbids_body",
)


class Draft:
    """A draft of what one handler does to a call."""

    def __init__(self, call: Call) -> None:
        """Begin a draft.

        Args:
            call: what it's a draft of; it stays as it is until `take_over`.
        """
        self._original = call
        self.call: Call = type(call)(call.source, call.conf_token)
        """For the handler."""
        self.call.__dict__.update(call.__dict__)
        for name in _PARTS:
            setattr(self.call, name, getattr(call, name))
        self._asker = _DraftAsker(self, call.asker)
        self.call.asker = self._asker
        for name in _MAPPINGS:
            seen = getattr(call, name)
            if seen is not None:
                setattr(self.call, name, seen.copied(self._asker))
        self._copies = Copies()
        self._ctx = call.kept_ctx
        if call.kept_ctx is not None:
            self.call.kept_ctx = self._copies.copied(call.kept_ctx)

    def take_over(self) -> None:
        """The handler has succeeded: let the call have its changes."""
        self._asker.closed = True
        draft, original = self.call, self._original
        self.learn()
        for name in _CHANGES:
            setattr(original, name, getattr(draft, name))
        for name in _MAPPINGS:
            drafted, present = getattr(draft, name), getattr(original, name)
            if drafted is not None and present is not None:
                present.take_changes(drafted)
            elif drafted is not None:
                setattr(original, name, drafted.copied(original.asker))
        if self._ctx is not None:
            self._copies.write_back()
        elif draft.kept_ctx is not None:
            original.kept_ctx = Copies().copied(draft.kept_ctx)

    def drop(self) -> None:
        """The handler has failed: what it did was for nothing, and what it still does is, too."""
        self._asker.closed = True
        self.learn()

    def learn(self) -> None:
        """What the gateway has told stays true, and some of it is told once only."""
        for name in _LEARNED:
            setattr(self._original, name, getattr(self.call, name))

    @property
    def original(self) -> Call:
        """What it's a draft of."""
        return self._original


class _DraftAsker:
    """Asks on behalf of the call that it's a draft of, as long as anybody wants the draft."""

    def __init__(self, draft: Draft, asker: Asker) -> None:
        self._draft = draft
        self._asker = asker
        self.closed = False

    def _call(self) -> Call:
        if self.closed:
            raise NotAvailableError("the call went on without this plugin: the gateway can't be asked any more")
        return self._draft.original

    @property
    def is_over(self) -> bool:
        """Nobody waits for the call's answer any more."""
        return self._asker.is_over

    def ask(self, call: Call, question: Question) -> Awaitable[bytes | None]:
        """Put a question and wait for its answer, in a task."""
        return self._asker.ask(self._call(), question)

    def ask_sync(self, call: Call, question: Question) -> bytes | None:
        """Put a question and wait for its answer."""
        return self._asker.ask_sync(self._call(), question)

    def ask_here(self, call: Call, questions: Sequence[Question]) -> list[bytes | None]:
        """Put questions together and wait for the answers."""
        return self._asker.ask_here(self._call(), questions)

    def find_header(self, _: Headers, name: str) -> str | None:
        """What a header is that the gateway cut off."""
        return find_header(self._asker, self._call(), name)

    def reading(self, call: Call, question: Question) -> Recipe[bytes]:
        """How to get a body."""
        body = yield from self._asker.reading(call, question)
        original = self._draft.original
        if question is REQUEST_BODY:
            original.read_body, original.body_was_read = body, True
        elif question is RESPONSE_BODY:
            original.read_response_body = body
        return body
