"""The batteries: plugins that come along, each a module of the native API and nothing more.

A route names one and is done: no `--plugins`. A module here holds the plugin of its own name, with `-` for `_`
(`rate_limit` is `rate-limit`), and is imported once a configuration names it. What several use is in `_shared`.

To add one:

1. Write `gatewright/plugins/my_name.py`, or a package `my_name/` whose `__init__` has the class: a subclass of
   `gatewright.Plugin[MyNameConfig]` with `name = "my-name"`, `priority` and `version` (Kong wants both). It imports of
   `gatewright` itself and `gatewright.plugins._shared` alone: `make lint` checks it.
2. Its configuration is a `msgspec.Struct` of its own name (`MyNameConfig`), each field of a type like
   `Annotated[float, field("What it means.", unit="seconds", gt=0)]` (`_shared.model`). Secrets are
   `gatewright.Secret`. What can't be right is refused in `__post_init__` with a `ValueError`.
3. Packages that not everybody needs are an extra in `pyproject.toml`, imported under
   `with extra("redis", plugin="my-name"):` (`_shared.extras`).
4. Counts are a `counter(...)` of `_shared.counting`, whose labels are bounded; whoever waits for a server has a
   `CircuitBreaker` (`_shared.breaker`); what is kept for a while is in an `ExpiringCache` (`_shared.expiring`); whom
   something is counted for is a `KeyTemplate` (`_shared.keys`), the client a `ClientAddress` (`_shared.addresses`).
5. A page `docs/batteries/my-name.md` with an APISIX and a Kong example. The fields' table in it is what
   `gatewright plugins my-name --markdown` prints; `tests/plugins/test_pages.py` checks it, and runs its commands.
6. Tests in `tests/plugins/`: tables with `harness`, through a worker in the test's own process over both gateways'
   protocols, and the whole once through the development gateway (the page's commands do that).
"""
