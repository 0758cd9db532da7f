"""How a chain's steps are made, set up and torn down."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from time import perf_counter
from typing import Any, Final, cast

from gatewright.errors import (
    ConfigError,
    DeadlineExceededError,
    DiscoveryError,
    GatewayClosedError,
    GatewrightError,
    OverloadedError,
    PluginError,
    UnknownPluginError,
    tangible,
    words_of,
)
from gatewright.loggers import get_logger
from gatewright.plugin import Plugin, takes_answer
from gatewright.runtime.apart import Apart, renew
from gatewright.runtime.bridge import Bridge
from gatewright.runtime.failures import FailureLog
from gatewright.runtime.fitting import check_fields, with_misspelt
from gatewright.runtime.holding import Holding
from gatewright.runtime.made_for_threads import LOCAL, what_wants_threads
from gatewright.runtime.shipped import is_shipped, load_shipped, shipped_names
from gatewright.runtime.stats import Tallies
from gatewright.runtime.steps import (
    Around,
    Limit,
    Mode,
    PhaseHandler,
    Policy,
    State,
    Step,
    awaited,
    check_has_run,
    mode_of,
)
from gatewright.runtime.thread_bound import holds_what_is_thread_bound
from gatewright.runtime.threads import Home
from gatewright.runtime.weight import too_heavy

__all__ = ["ChainBuilder"]

_LONGEST_NAME: Final = 200
_SETUP_RETRY: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between tries of a setup() that failed


class ChainBuilder:
    """Makes chains out of configurations: looks plugins up, parses their configuration, sets them up."""

    def __init__(
        self,
        plugins: Mapping[str, type[Plugin]],
        bridge: Bridge,
        failures: FailureLog,
        *,
        policies: Mapping[str, Policy] | None = None,
        timeout: float = 55.0,
        hold_limit: float = 0.1,
        blocking: bool | None = None,
        around: Around | None = None,
    ) -> None:
        """Make a builder.

        Args:
            plugins: the plugin classes by name.
            bridge: where handlers run.
            failures: where failures are told.
            policies: settings by plugin name.
            timeout: seconds for plugins that don't say. APISIX itself gives up after 60.
            hold_limit: seconds that a handler may hold the loop before it's moved to a thread.
            blocking: run all `def` handlers as blocking ones, whatever plugins and policies say.
            around: what wants to be around every handler.
        """
        self.plugins = dict(plugins)
        self.on_loaded: Callable[[type[Plugin]], None] = lambda _plugin: None
        """Told of each plugin that comes along and was imported because a configuration names it."""
        self.bridge = bridge
        self.failures = failures
        self.hold_limit = hold_limit
        self._blocking = blocking
        failures.known = self.plugins
        self.checks_fields = True
        """Fields that a plugin's model doesn't know are an error. (Kong checks them itself, and adds its own.)"""
        self.tallies = Tallies()
        self.apart = Apart()
        self.holding = Holding(self.apart, failures, hold_limit)
        bridge.hold_limit, bridge.on_hold = hold_limit, self.holding.held_the_loop
        bridge.on_bound = self.holding.is_bound
        self.on_building: Callable[[Any, bool], None] = lambda _chain, _begins: None
        """Told when plugins of a chain are about to be made or set up (`True`), and when that's over (`False`)."""
        self._around = around
        self._limits: dict[str, Limit] = {}
        self._log = get_logger("gatewright.runtime")
        self._uses: dict[type[Plugin], frozenset[str]] = {}
        self._policies = policies or {}
        self._timeout = timeout

    @property
    def longest(self) -> float:
        """The longest deadline that any plugin has, seconds."""
        own = (self._timeout_of(name, plugin) for name, plugin in self.plugins.items())
        return max(self._timeout, *own, 0.0)

    def longest_of(self, names: Iterable[str]) -> float:
        """Seconds that a call through these plugins may take."""
        return sum(self._timeout_of(name, self.plugins.get(name)) for name in names)

    def _timeout_of(self, name: str, plugin_class: type[Plugin] | None) -> float:
        policy = self._policies.get(name)
        return (policy and policy.timeout) or (plugin_class and plugin_class.timeout) or self._timeout

    def make_step(self, route: str, name: str, text: str) -> Step:
        """The step for one entry of a configuration; broken, with the reason, where it can't be used."""
        name = _short(name)
        policy = self._policies.get(name, Policy())
        plugin_class, missing = self._find(name)
        step = Step(
            name=name,
            route=route,
            on_error=policy.on_error or (plugin_class.on_error if plugin_class else "fail"),
            timeout=self._timeout_of(name, plugin_class),
        )
        if plugin_class is None:
            step.state, step.error = State.BROKEN, missing
            what = "names an unknown plugin" if isinstance(missing, UnknownPluginError) else "names an unusable plugin"
            self.failures.report(f"configuration {what}", kind="conf", plugin=name, route=route, error=missing)
            return step
        excess = too_heavy(text)
        if excess:
            step.state, step.error = State.BROKEN, ConfigError(f"its configuration is too large to be read: {excess}")
            self.failures.report(
                "plugin configuration is invalid", kind="conf", plugin=name, route=route, error=step.error
            )
            return step
        blocking = plugin_class.blocking if policy.blocking is None else policy.blocking
        uses = self._uses_of(plugin_class)
        step.apart = blocking or name in self.apart.names or bool(uses and self._may_move(plugin_class, policy))
        if self._blocking is not None:
            step.apart = self._blocking
        step.wants_fresh_threads = LOCAL in uses and getattr(plugin_class, "thread_for_each_call", False)
        step.optional_phases = plugin_class.optional_phases
        step.make = step.remake = partial(self._instance, plugin_class, text)
        self.apart.joined(step)
        if not step.apart:  # otherwise its set-up makes it, in a thread
            self._make(step)
        return step

    def to_load(self, names: Iterable[str]) -> list[str]:
        """Those of these plugins that come along and are not imported yet."""
        return [name for name in names if name not in self.plugins and is_shipped(name)]

    def load(self, names: Iterable[str]) -> None:
        """Import plugins that come along; one that can't be is told of by the step that is made of it. In a strand."""
        for name in self.to_load(names):
            self._find(name)

    def _uses_of(self, plugin_class: type[Plugin]) -> frozenset[str]:
        """What its code uses that is for threads, see `made_for_threads`."""
        uses = self._uses.get(plugin_class)
        if uses is None:
            # Where strands take turns like threads anyway (gevent), there's nothing to be seen to.
            uses = self._uses[plugin_class] = (
                what_wants_threads(plugin_class) if self.bridge.waits_here else frozenset()
            )
            if uses and self._may_move(plugin_class, self._policies.get(plugin_class.name, Policy())):
                told = "plugin is made for threads and runs there; `blocking = False` in its class keeps it on the loop"
                self._log.info(told, plugin=plugin_class.name, uses=", ".join(sorted(uses)))
        return uses

    @staticmethod
    def _may_move(plugin_class: type[Plugin], policy: Policy) -> bool:
        """Neither the class nor the settings say where it runs."""
        theirs = plugin_class.__mro__[: plugin_class.__mro__.index(Plugin)]
        return policy.blocking is None and not any("blocking" in vars(cls) for cls in theirs)

    def _find(self, name: str) -> tuple[type[Plugin] | None, GatewrightError | None]:
        """A plugin by name, somebody's own before one that comes along; or why there is none."""
        plugin_class = self.plugins.get(name)
        if plugin_class is not None:
            return plugin_class, None
        if not is_shipped(name):
            names = sorted({*self.plugins, *shipped_names()})
            known, near = ", ".join(names) or "none", get_close_matches(name[:100], names, 1)  # it may be of any length
            meant = f"did you mean {near[0]}? " if near else ""
            return None, UnknownPluginError(f"no plugin is called {name!r}; {meant}known plugins: {known}")
        try:
            plugin_class = self.bridge.run_blocking(partial(load_shipped, name))  # it may import for seconds
        except (ConfigError, DiscoveryError) as error:
            return None, error
        self.plugins[name] = plugin_class
        self.on_loaded(plugin_class)
        return plugin_class, None

    def _instance(self, plugin_class: type[Plugin], text: str) -> Plugin:
        try:
            plugin = plugin_class(text)
        except ConfigError as error:
            raise (with_misspelt(plugin_class, text, error) if self.checks_fields else error) from error.__cause__
        if self.checks_fields:
            check_fields(plugin_class, text)
        return plugin

    def _make(self, step: Step) -> None:
        """Make a step's plugin; the step is broken if that's not possible."""
        make = step.make
        assert make is not None  # noqa: S101
        if step.apart:
            step.home = Home(partial(self._thread_lost, step))
            step.home.fresh = step.wants_fresh_threads
        try:
            plugin = self.bridge.run_blocking(make) if step.apart else make()
            handlers = _Handlers(plugin)
        except BaseException as raised:
            error = tangible(raised)
            if self.bridge.current().dies or (
                step.apart and isinstance(error, GatewayClosedError | DeadlineExceededError | OverloadedError)
            ):
                raise  # it says nothing about the configuration
            step.state, step.make = State.BROKEN, None
            step.error = error if isinstance(error, ConfigError) else ConfigError(words_of(error))
            step.error.__cause__ = None if isinstance(error, ConfigError) else error
            self.failures.report(
                "plugin configuration is invalid",
                kind="conf",
                plugin=step.name,
                route=step.route,
                error=step.error,
                traceback=not isinstance(error, ConfigError),
            )
            return
        if step.plugin is not None:
            self._release_tallies(step)
        step.plugin, step.make, step.made_apart = plugin, None, step.apart
        step.on_request, step.on_response = handlers.on_request, handlers.on_response
        step.request_mode = mode_of(step.on_request, step.apart)
        step.response_mode = mode_of(step.on_response, step.apart)
        step.request_tally = self.tallies.of(step.name, "request", step.route)
        step.response_tally = self.tallies.of(step.name, "response", step.route)
        step.phases = {
            phase: PhaseHandler(handler, mode_of(handler, step.apart), self.tallies.of(step.name, phase, step.route))
            for phase, handler in handlers.phases.items()
        }
        if handlers.on_log is not None:
            tally = self.tallies.of(step.name, "log", step.route)
            step.phases["log"] = PhaseHandler(handlers.on_log, mode_of(handlers.on_log, step.apart), tally, True)
        policy = self._policies.get(step.name, Policy())
        self._guard(step, policy.max_concurrent or type(plugin).max_concurrent)
        if type(plugin).setup is Plugin.setup:
            step.state, step.error = State.READY, None

    def quarantined_step(self, route: str, name: str) -> Step:
        """A step that refuses all, because making it has ended processes."""
        step = Step(name=_short(name), route=route, on_error="fail", timeout=self._timeout, state=State.BROKEN)
        step.error = PluginError("setting this configuration up has ended several workers; it is no longer tried")
        return step

    def _guard(self, step: Step, most: int | None) -> None:
        step.around = self._around
        if most:
            step.limit = self._limits.setdefault(step.name, Limit(most))
        if step.around is not None or step.limit is not None or step.on_error == "skip":
            step.own_mode = {"request": step.request_mode, "response": step.response_mode}
            step.request_mode = step.response_mode = Mode.GUARDED

    def set_up(self, step: Step) -> None:
        """Run a step's `setup()` if it is due; a failure is kept and tried again later."""
        loop = self.bridge.loop
        if step.setup_running is not None:
            self.bridge.wait_future(asyncio.shield(step.setup_running))
            return
        if step.state is State.SETUP_FAILED and loop.time() < step.next_setup:
            return
        strand = self.bridge.current()
        before = strand.work, strand.deadline
        strand.work, strand.deadline = step, 0.0
        step.setup_running = loop.create_future()
        try:
            if step.make is not None:
                self._end_old(step)
                self._make(step)
            if step.plugin is not None and step.state is not State.READY:
                self._call_hook(step, step.plugin.setup, apart=step.made_apart)
                step.state, step.error = State.READY, None
            if step.made_apart and not step.home.fresh:
                step.home.bound = step.home.bound or holds_what_is_thread_bound(step.plugin)
        except BaseException as raised:
            error = tangible(raised)
            if strand.dies or (isinstance(error, GatewayClosedError) and error is strand.thrown):
                step.next_setup = loop.time()
                raise  # of the call that happened to try: it says nothing about the set-up
            pause = _SETUP_RETRY[min(step.setup_tries, len(_SETUP_RETRY) - 1)]
            step.setup_tries += 1
            step.next_setup = loop.time() + pause
            step.state = State.SETUP_FAILED
            held = perf_counter() - strand.began
            if held > self.hold_limit and not step.apart and not self.holding.was_starving(held):
                self.apart.learn(step.name)  # the next try is to hold nobody up
            step.error = PluginError(f"setup() failed: {words_of(error)}")
            step.error.__cause__ = error
            self.failures.report(
                f"plugin set-up failed, next try in {pause:g} s at the earliest",
                kind="setup",
                plugin=step.name,
                route=step.route,
                error=error,
                traceback=True,
            )
        finally:
            strand.work, strand.deadline = before
            step.setup_running.set_result(None)
            step.setup_running = None
            if step.apart and not step.made_apart:  # that it blocks was learnt meanwhile
                renew(step)

    def _end_old(self, step: Step) -> None:
        """Tear an instance down that another one is about to replace, when nothing runs in it any more."""
        old, step.old = step.old, None
        if old is None:
            return
        while self.bridge.others_work_at(step):
            self.bridge.wait_a_moment()
        self._tear_down(step, old, apart=False)

    @staticmethod
    def _thread_lost(step: Step) -> None:
        """The thread that an instance is bound to hangs."""
        renew(step)
        step.old = None  # it could be torn down there only

    def tear_down(self, step: Step) -> None:
        """Run a step's `teardown()`; a failure is only told."""
        assert step.plugin is not None  # noqa: S101
        strand = self.bridge.current()
        strand.work, strand.deadline = step, 0.0
        step.state = State.NEW
        self._tear_down(step, step.plugin, apart=step.made_apart)

    def _tear_down(self, step: Step, plugin: Plugin, *, apart: bool) -> None:
        try:
            self._call_hook(step, plugin.teardown, apart=apart)
        except BaseException as error:
            if self.bridge.current().dies:
                raise
            self.failures.report(
                "plugin teardown failed",
                kind="teardown",
                plugin=step.name,
                route=step.route,
                error=error,
                traceback=True,
            )

    def release(self, step: Step) -> None:
        """A step's chain is gone: its counts may be added to others'."""
        self.apart.left(step)
        if step.plugin is not None:
            self._release_tallies(step)

    def _release_tallies(self, step: Step) -> None:
        for phase in ("request", "response", *step.phases):
            self.tallies.release(step.name, phase, step.route)

    def _call_hook(self, step: Step, hook: Callable[[], Any], *, apart: bool) -> None:
        self.bridge.current().began = perf_counter()
        result = self.bridge.run_blocking(hook) if apart and not inspect.iscoroutinefunction(hook) else hook()
        if inspect.isawaitable(result):
            self.bridge.run_coroutine(awaited(result))
        else:
            check_has_run(result)


class _Handlers:
    """The handlers of an instance. To look at them may fail: they may be properties."""

    def __init__(self, plugin: Plugin) -> None:
        if not isinstance(plugin, Plugin):
            raise ConfigError(f"its class makes no instance of itself, but {type(plugin).__name__}")
        self.on_request: Any = getattr(plugin, "on_request", None)
        self.on_response: Any = getattr(plugin, "on_response", None)
        self.phases = dict(plugin.phase_handlers())
        on_log = getattr(plugin, "on_log", None)
        self.on_log: Callable[..., Any] | None = cast("Any", on_log) if takes_answer(on_log) else None


def _short(name: str) -> str:
    """A plugin's name as it's kept; what is longer is none's, and comes from whoever speaks to the socket."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
