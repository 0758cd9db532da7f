"""A chain's life: its steps are made when they are first needed, set up, and torn down in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from gatewright.errors import DeadlineExceededError, tangible
from gatewright.http import Asker
from gatewright.runtime.building import ChainBuilder
from gatewright.runtime.stats import Tally
from gatewright.runtime.steps import State, Step
from gatewright.runtime.strands import Strand
from gatewright.runtime.verdicts import Gateway, step_failed

__all__ = ["ChainLife"]

_LONGEST_KEY: Final = 500
"""Characters of a route's key in logs and labels; APISIX's own have some dozen."""


def _phases_called(key: str) -> tuple[str, ...] | None:
    """See `ChainLife.phases_called`; the lean protocol says so behind the NUL, as a number."""
    hidden = key.partition("\0lean")[2].partition(":")[0]
    if not hidden.isdecimal():
        return None
    return tuple(phase for bit, phase in enumerate(("request", "response", "log")) if int(hidden) >> bit & 1)


class ChainLife:
    """The steps of one configuration.

    Attributes:
        key: the gateway's key of the configuration, for logs and metrics. What follows a NUL in it is there to tell two
            of the same apart, and left out here.
        several_for_requests: more than one step counts in the request phase.
        only_phases: no step has a handler for requests or their answers, as is known once all are set up.
        tells: some of its plugins have an `on_log(request, response)`.
        name: the part of the key before any `#`: with Kong, the plugin's name.
        late: with APISIX, others may have rewritten the request before: the key names the plugin that asks.
        phases_called: the phases that the gateway will call, where one configuration serves several: a plugin with a
            handler for any of them has nothing to do in the others. `None`: it is named for each phase by itself.
        names: those of its plugins.
        promised: what the gateway was told to expect of them, where it was told: what they have come to do since then,
            it doesn't know.
        learnt: by phase, what a driver knows of what its plugins look at.
        ready: every step is usable; set once `build` is done.
        last_used: the tick (see `confs`) of its last use.
        token: its conf token, where it has one.
    """

    def __init__(self, key: str, conf: Sequence[tuple[str, str]], builder: ChainBuilder) -> None:
        self.key = key.partition("\0")[0][:_LONGEST_KEY]
        self.name = self.key.partition("#")[0]
        self.late = "#ext-plugin-post-req#" in key
        self.phases_called = _phases_called(key)
        self.names = tuple(name for name, _ in conf)
        self.promised = key.partition("\0lean")[2].partition(":")[2]
        self.learnt: dict[str, Any] = {}
        self.steps: list[Step] = []
        self.request_steps: list[Step] = []
        self.response_steps: list[Step] = []
        self.several_for_requests = False
        self.only_phases = False
        self.tells = False
        self.ready = False
        self.last_used = 0
        self.token: int | None = None
        self._conf: Sequence[tuple[str, str]] | None = conf
        self._builder = builder
        self._bridge = builder.bridge
        self._hold_limit = builder.hold_limit
        self._built: asyncio.Future[None] | None = None

    def build(self, *_: object) -> None:
        """Make the steps and set them up. Runs in a strand; later callers wait for the first."""
        if not self._is_due():
            self._build()
            return
        self._builder.on_building(self, True)
        try:
            self._build()
        finally:
            self._builder.on_building(self, False)

    def _is_due(self) -> bool:
        """Code of plugins will run if this is built now."""
        now = self._bridge.loop.time()
        return self._built is None or any(
            step.state is State.NEW or (step.state is State.SETUP_FAILED and now >= step.next_setup)
            for step in self.steps
            if step.setup_running is None
        )

    def _build(self) -> None:
        if self._built is not None and not self._built.done():
            self._bridge.wait_future(asyncio.shield(self._built))
        if self._built is None:
            built = self._built = self._bridge.loop.create_future()
            try:
                self.steps = [self._builder.make_step(self.key, name, text) for name, text in self._conf or ()]
                for step in self.steps:
                    step.on_renewal = self._not_ready
                self._conf = None  # configurations hold secrets: the steps' copy is enough
            except BaseException:
                self._built = None  # without its steps a chain would let everything pass
                raise
            finally:
                built.set_result(None)
        self._set_up()

    def _not_ready(self) -> None:
        self.ready = False

    def quarantine(self) -> None:
        """Refuse all calls, and don't build: building this configuration has ended whole processes."""
        conf, self._conf = self._conf or (), None
        self.steps = [self._builder.quarantined_step(self.key, name) for name, _ in conf]
        self.request_steps = self.response_steps = self.steps
        self._built = self._bridge.loop.create_future()
        self._built.set_result(None)

    def _set_up(self) -> None:
        for step in self.steps:
            if step.state is State.NEW or step.state is State.SETUP_FAILED:
                self._builder.set_up(step)
        called = self.phases_called
        self.request_steps = [step for step in self.steps if step.counts_in("request", called)]
        self.response_steps = [step for step in self.steps if step.counts_in("response", called)]
        self.several_for_requests = len(self.request_steps) > 1
        self.tells = any(step.after is not None for step in self.steps)
        self.only_phases = not self.tells and not any(step.on_request or step.on_response for step in self.steps)
        self.ready = all(step.state is State.READY for step in self.steps)
        self._bridge.current().gr_context = None  # what set-ups left is not for handlers to see

    def teardown(self, *_: object) -> None:
        """Release what the plugins hold. Runs in a strand."""
        for step in self.steps:
            self._builder.release(step)
            if step.plugin is not None and step.state is State.READY:
                self._builder.tear_down(step)

    # --- what went wrong

    def _held_the_loop(self, step: Step, seconds: float) -> None:
        """A handler kept everybody waiting."""
        self._builder.holding.held_the_loop(step, seconds)
        if seconds > step.timeout:
            raise DeadlineExceededError(f"took {seconds:.3g} s, its timeout is {step.timeout:g} s")

    def failed_before(self, error: BaseException, strand: Strand, phase: str) -> None:
        """What a handler needs could not be had: as if the handler had failed itself.

        Args:
            error: why not.
            strand: the strand that this runs in.
            phase: `request` or `response`.

        Raises:
            CallRefusedError: the policy is to refuse the call; it has been logged.
        """
        step = self.steps[0]
        tally = step.request_tally if phase == "request" else step.response_tally
        asker: Asker = strand.call.asker
        self._failed(step, error, strand, tally, strand.began, asker)

    def _failed(
        self, step: Step, error: BaseException, strand: Strand, tally: Tally, started: float, gateway: Gateway
    ) -> float:
        """See `step_failed`."""
        self._bridge.put_right()
        return step_failed(
            step, tangible(error), strand=strand, tally=tally, started=started, gateway=gateway,
            failures=self._builder.failures, route=self.key,
        )  # fmt: skip
