"""What supervisor and workers say to each other over a socket pair.

Each message is a length (four bytes, big-endian) and a MessagePack array whose first item is the message's name. A
connection that is given back travels beside its `Return` as a file descriptor; those that are given to workers have a
way of their own (`handover`). Text of configurations travels as bytes, since it need not be valid UTF-8.
"""

from __future__ import annotations

import msgspec

from gatewright.observe.report import WorkerReport

__all__ = [
    "Alive",
    "Apart",
    "Assigned",
    "Blocks",
    "Building",
    "Built",
    "Closed",
    "Conf",
    "Forget",
    "Forgotten",
    "FromSupervisor",
    "FromWorker",
    "Known",
    "Level",
    "Loaded",
    "Lookup",
    "PluginInfo",
    "Preloaded",
    "Ready",
    "Rebalance",
    "Register",
    "Reopen",
    "Report",
    "Reported",
    "Retire",
    "Return",
    "Returned",
    "Stop",
    "Taken",
    "Unknown",
    "Used",
    "WantsRetirement",
]


class Message(msgspec.Struct, array_like=True):
    """Base of all messages."""


class Conf(Message):
    """A configuration: the gateway's key, and plugin names with their configuration's text."""

    key: bytes
    plugins: list[tuple[bytes, bytes]]


class PluginInfo(Message):
    """A plugin that a worker found."""

    name: str
    phases: list[str]
    source: str
    version: str


# --- from the supervisor


class Known(Message, tag=True):
    """A configuration that has a token."""

    token: int
    digest: bytes
    conf: Conf
    quarantined: bool
    """Building it has killed workers: it's not to be built."""


class Unknown(Message, tag=True):
    """No configuration has this token."""

    token: int


class Preloaded(Message, tag=True):
    """All configurations have been told: build the chains, then say `Ready`."""

    urgent: bool = False
    """Nobody serves meanwhile: say `Ready` first."""


class Assigned(Message, tag=True):
    """The answer to `Register`."""

    digest: bytes
    token: int
    quarantined: bool


class Returned(Message, tag=True):
    """The oldest connection that was given back has come, or its descriptor was lost on the way."""

    came: bool


class Forgotten(Message, tag=True):
    """The gateway no longer needs the configuration of this token."""

    token: int


class Rebalance(Message, tag=True):
    """Give so many idle connections back."""

    count: int


class Retire(Message, tag=True):
    """Give all connections back, each as soon as it's idle, and end."""


class Stop(Message, tag=True):
    """Drain and end."""

    seconds: float
    """How long calls under way have."""


class Report(Message, tag=True):
    """Say how you are."""

    number: int


class Level(Message, tag=True):
    """Log at this level from now on."""

    level: str


class Apart(Message, tag=True):
    """These plugins were seen blocking: they run in threads."""

    names: list[str]


class Reopen(Message, tag=True):
    """Open the log file anew."""


# --- from a worker


class Loaded(Message, tag=True):
    """The plugins have been imported, or not."""

    plugins: list[PluginInfo]
    errors: list[str]
    longest: float = 0.0
    """Seconds that a call may take, by the longest deadline of any plugin."""


class Ready(Message, tag=True):
    """Connections can come."""


class Register(Message, tag=True):
    """A gateway handed this configuration over: it needs a token."""

    digest: bytes
    conf: Conf


class Lookup(Message, tag=True):
    """A gateway presented this token, which is not known here."""

    token: int


class Forget(Message, tag=True):
    """The gateway no longer needs the configuration of this token."""

    token: int


class Used(Message, tag=True):
    """These tokens were used lately."""

    tokens: list[int]


class Building(Message, tag=True):
    """The chain of this token is about to be built."""

    token: int


class Built(Message, tag=True):
    """The chain of this token has been built."""

    token: int


class Blocks(Message, tag=True):
    """A plugin was seen blocking the loop."""

    name: str


class Alive(Message, tag=True):
    """The loop goes round."""


class Taken(Message, tag=True):
    """A connection on its way (see `handover`) has come, and was not read from yet; or its descriptor was lost."""

    number: int
    came: bool


class Closed(Message, tag=True):
    """So many connections ended."""

    count: int
    slots: list[int]
    """The guard's slots that they had."""


class Return(Message, tag=True):
    """A connection for another worker; its descriptor comes with this message."""

    slot: int = -1


class WantsRetirement(Message, tag=True):
    """Please put another worker in my place."""

    reason: str


class Reported(Message, tag=True):
    """The answer to `Report`; 0 for a report that nobody asked for."""

    number: int
    report: WorkerReport


FromSupervisor = (
    Known | Unknown | Preloaded | Assigned | Forgotten | Returned | Rebalance
    | Retire | Stop | Report | Level | Reopen | Apart
)  # fmt: skip
FromWorker = (
    Loaded | Ready | Register | Lookup | Used | Forget | Building | Built | Alive | Taken | Closed | Return
    | WantsRetirement | Reported | Blocks
)  # fmt: skip
