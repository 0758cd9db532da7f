"""**ip-restriction**: who may ask, by the client's address."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gatewright import Plugin, Request, Response
from gatewright.plugins._shared.addresses import ClientAddress, Networks
from gatewright.plugins._shared.counting import counter
from gatewright.plugins._shared.model import field

__all__ = ["IpRestriction"]


class IpRestrictionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and networks; one of the two lists has to have some."""

    allow: Annotated[tuple[str, ...], field("Addresses and networks that may ask; all others may not.")] = ()
    deny: Annotated[tuple[str, ...], field("Addresses and networks that may not ask, be they in `allow` or not.")] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        field("Networks of proxies whose `forwarded_header` is believed. Empty: the address that the gateway tells."),
    ] = ()
    forwarded_header: Annotated[str, field("The header to which proxies append whom they speak for.", min_length=1)] = (
        "x-forwarded-for"
    )
    status: Annotated[int, field("Status of a refusal.", ge=400, le=599)] = 403
    body: Annotated[str, field("Body of a refusal, as text.")] = "Your address is not allowed here.\n"

    def __post_init__(self) -> None:
        if not self.allow and not self.deny:
            raise ValueError("allow or deny has to have an address: otherwise nobody is restricted")
        for networks in (self.allow, self.deny, self.trusted_proxies):
            Networks(networks)


class IpRestriction(Plugin[IpRestrictionConfig]):
    """Refuses clients whose address is denied, or not allowed."""

    name = "ip-restriction"
    version = "1.0.0"
    priority = 990

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        own = self.config
        self._client = ClientAddress(own.trusted_proxies, own.forwarded_header)
        self._allow, self._deny = Networks(own.allow), Networks(own.deny)
        self._decisions = counter("ip_restriction_decisions", "Requests looked at, by decision.", ["decision"])

    async def on_request(self, request: Request) -> Response | None:
        """Let the client pass, or answer it."""
        address = self._client.of(request)
        if address in self._deny or (self._allow and address not in self._allow):
            self._decisions.add("refused")
            self.log.info("refused", extra={"client": str(address)})
            return Response(self.config.status, body=self.config.body)
        self._decisions.add("allowed")
        return None
