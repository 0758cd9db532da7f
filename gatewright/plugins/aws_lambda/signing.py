"""AWS's Signature Version 4 and where its keys come from: botocore does both.

botocore's chain may read files and ask metadata services, which blocks: it runs in a thread, and only when keys are new
or about to expire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_plus

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from gatewright import ConfigError, PluginError

if TYPE_CHECKING:
    from gatewright.plugins.aws_lambda.options import AwsLambdaConfig

__all__ = ["CredentialsError", "Signer", "signable"]


_SUFFIXES: Final = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
"""Domains of AWS's partitions. (botocore has them, too, but not in its public interface.)"""


def signable(query: str) -> str:
    """A query in the one spelling that is signed (each name and value escaped alike): Amazon signs what it decoded."""
    pieces = (part.partition("=") for part in query.split("&") if part)
    return "&".join(f"{_escaped(name)}{equals}{_escaped(value)}" for name, equals, value in pieces)


def _escaped(text: str) -> str:
    return quote(unquote_plus(text, errors="surrogateescape"), safe="-_.~", errors="surrogateescape")


class CredentialsError(PluginError):
    """There are no keys to sign with, or they can't be renewed."""


class Signer:
    """Signs requests to Lambda. `find` has to be called first, in a thread."""

    def __init__(self, config: AwsLambdaConfig) -> None:
        self._config = config
        self._credentials: Any = None
        self.region = ""
        self.endpoint = ""

    def find(self) -> None:
        """Find the region, the API's address and the keys. May block for seconds.

        Raises:
            ConfigError: there is no region, or no such profile.
        """
        config = self._config
        try:
            session = Session(profile=config.profile or None)
            self.region = config.own_region or session.get_config_variable("region") or ""
            if not self.region:
                raise ConfigError("which region? Say `region`, or set AWS_REGION in the runner's environment")
            self.endpoint = config.endpoint.rstrip("/") or self._address(session)
            if config.access_key_id is None and not (config.function_url and config.function_url_auth == "none"):
                self._credentials = session.get_credentials()
        except BotoCoreError as error:
            raise ConfigError(f"AWS's configuration can't be used: {error}") from None

    def _address(self, session: Session) -> str:
        if self._config.function_url:
            return self._config.function_url.rstrip("/")
        partition = session.get_partition_for_region(self.region)
        if partition not in _SUFFIXES:
            raise ConfigError(f"where is Lambda in the region {self.region!r} (of {partition})? Say its `endpoint`")
        return f"https://lambda.{self.region}.{_SUFFIXES[partition]}"

    async def signed(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        """Headers with a signature.

        Raises:
            CredentialsError: there is nothing to sign with.
        """
        request = AWSRequest(method=method, url=url, headers=dict(headers), data=body)
        SigV4Auth(await self._keys(), "lambda", self.region).add_auth(request)
        return dict(request.headers.items())

    async def _keys(self) -> Any:
        config = self._config
        if config.access_key_id is not None and config.secret_access_key is not None:
            token = config.session_token.reveal() if config.session_token is not None else None
            return Credentials(config.access_key_id.reveal(), config.secret_access_key.reveal(), token)
        credentials = self._credentials
        if credentials is None:  # perhaps there are some by now
            await asyncio.to_thread(self.find)
            credentials = self._credentials
        if credentials is None:
            raise CredentialsError("there are no AWS credentials: say them in the configuration or the environment")
        try:
            renews = getattr(credentials, "refresh_needed", None)
            if renews is not None and renews():
                return await asyncio.to_thread(credentials.get_frozen_credentials)
            return credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise CredentialsError(f"AWS credentials can't be renewed: {error}") from None
