"""What a route says of its function."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from gatewright import Secret
from gatewright.plugins._shared.model import field

__all__ = ["AwsLambdaConfig"]

_NAME: Final = re.compile(
    r"(arn:(?P<partition>aws[a-zA-Z-]*):lambda:(?P<region>[a-z0-9-]+):\d{12}:function:|\d{12}:(function:)?)?"
    r"[A-Za-z0-9_-]{1,140}(:(?P<qualifier>\$LATEST|[A-Za-z0-9_-]{1,128}))?"
)


class AwsLambdaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A function, and how it is asked."""

    function: Annotated[
        str,
        field("The function's name or ARN, perhaps with `:alias` or `:version`; or else `function_url`."),
    ] = ""
    function_url: Annotated[
        str, field("The function's own URL instead, `https://....lambda-url.eu-west-1.on.aws`: requests are passed on.")
    ] = ""
    function_url_auth: Annotated[
        Literal["iam", "none"], field("Of a function's URL: whether requests are signed (`AWS_IAM`) or not.")
    ] = "iam"
    qualifier: Annotated[str, field("Version or alias, if it's not in the name.")] = ""
    region: Annotated[
        str, field("The region; empty: that of the ARN or URL, or what AWS_REGION or the profile says.")
    ] = ""
    endpoint: Annotated[str, field("Another address of the Lambda API, of a VPC endpoint say: `https://host`.")] = ""
    invocation: Annotated[
        Literal["request", "event"],
        field("`request`: the client waits for the function's answer; `event`: it gets 202 once Lambda has taken it."),
    ] = "request"
    payload: Annotated[
        Literal["v2", "v1", "body"],
        field(
            "What the function gets: an event as API Gateway's HTTP APIs make it (payload format `v2` or `v1`), or the "
            "request's own JSON `body`; its answer is read in the same way."
        ),
    ] = "v2"
    stage: Annotated[str, field("What events say in `requestContext.stage`.")] = "$default"
    access_key_id: Annotated[
        Secret | None, field("Key to sign with; none: from the usual chain (environment, profile, roles, metadata).")
    ] = None
    secret_access_key: Annotated[Secret | None, field("The key's secret.")] = None
    session_token: Annotated[Secret | None, field("Its session's token, if it's a temporary key.")] = None
    profile: Annotated[str, field("A profile of the AWS configuration files, for key, role and region.")] = ""
    timeout: Annotated[
        float, field("How long an answer may take, tries and waits included.", unit="seconds", gt=0, le=900)
    ] = 30.0
    connect_timeout: Annotated[float, field("How long a connection may take.", unit="seconds", gt=0, le=60)] = 3.0
    retries: Annotated[
        int,
        field(
            "Further tries, when Lambda throttles or can't be reached: the function hasn't run.",
            ge=0,
            le=10,
        ),
    ] = 3
    retry_errors: Annotated[
        bool, field("Try again also after Lambda's own failures (500, 502, 504): the function may run twice.")
    ] = False
    max_connections: Annotated[
        int, field("Connections that are open at once, in each worker.", unit="connections", ge=1, le=10_000)
    ] = 64
    max_body: Annotated[
        int, field("What a request's body may have; Lambda takes 6 MB an event.", unit="bytes", ge=0, le=6 << 20)
    ] = 6 << 20
    ca_file: Annotated[str, field("Certificates to trust instead of the system's, in a PEM file.")] = ""

    def __post_init__(self) -> None:
        if bool(self.function) == bool(self.function_url):
            raise ValueError("say either `function` or `function_url`")
        if self.function and not _NAME.fullmatch(self.function):
            raise ValueError(f"{self.function!r} is neither a function's name nor its ARN")
        found = _NAME.fullmatch(self.function)
        if self.qualifier and found is not None and found["qualifier"]:
            raise ValueError("there is a version or alias in `function` already: leave out `qualifier`")
        for name, url in (("function_url", self.function_url), ("endpoint", self.endpoint)):
            if url and urlsplit(url).scheme not in ("http", "https"):
                raise ValueError(f"`{name}` is a URL, https://... for instance")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("`access_key_id` and `secret_access_key` go together")
        if self.profile and self.access_key_id is not None:
            raise ValueError("say either a `profile` or keys")
        if self.function_url and (self.invocation != "request" or self.payload != "v2"):
            raise ValueError("behind a `function_url`, Lambda itself makes the event, and the client waits")

    @property
    def own_region(self) -> str:
        """The region as far as the configuration alone tells it."""
        if self.region:
            return self.region
        found = _NAME.fullmatch(self.function)
        if found is not None:
            return found["region"] or ""
        labels = (urlsplit(self.function_url).hostname or "").split(".")
        return labels[2] if labels[1:2] == ["lambda-url"] and len(labels) > 2 else ""
