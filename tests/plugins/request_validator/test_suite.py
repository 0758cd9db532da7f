"""Each required case of the official suite goes through the plugin, as the body of a request."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

import pytest

from gatewright.plugins.request_validator import RequestValidator
from gatewright.testing import Request
from tests.plugins.request_validator.suite import cases, documents

URI = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def named(schema: Any, draft: str) -> dict[str, Any]:
    """The suite's remote schemas that a schema names, and those that they name."""
    text, found = json.dumps(schema), {}
    for _ in range(5 if "localhost:1234" in text else 0):
        for uri, each in documents().items():
            is_of_draft = f"1234/{draft}/" in uri or not re.search("1234/(draft|v1/)", uri)
            if is_of_draft and uri not in found and PurePosixPath(uri).name in text:
                found[uri] = each
                text += json.dumps(each)
    return found


@pytest.mark.parametrize("draft", ["draft7", "draft2020-12"])
async def test_the_required_cases(draft: str) -> None:
    wrong, count = [], 0
    for file, group in cases(draft):
        schema = group["schema"]
        config = {
            "schema": json.dumps(schema),
            "draft": "draft-07" if draft == "draft7" else "2020-12",
            "documents": named(schema, draft),
            "formats": file != "format",  # there it is said to be an annotation only
            "fill_defaults": False,
            "max_bytes": 1 << 24,
        }
        plugin = RequestValidator(config)
        for case in group["tests"]:
            count += 1
            request = Request("POST", headers={"content-type": "application/json"}, body=json.dumps(case["data"]))
            answer = await plugin.on_request(request)
            if (answer is None) != case["valid"]:
                wrong.append((file, group["description"], case["description"]))
    assert wrong == []
    assert count > 900
