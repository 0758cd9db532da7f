"""What clients of the Open Inference Protocol ask beside inferences: is the server there, what does the model take?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from gatewright import Response
from gatewright.plugins.ml_model.tensors import TensorSpec

__all__ = ["answer_to"]

_PLACE: Final = re.compile(
    r"/v2(?:/health/(?P<health>live|ready)|/models/(?P<model>[^/]+)(?:/versions/[^/]+)?(?P<what>/ready|/infer)?)?/?$"
)


def answer_to(
    method: str, path: str, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Response | None:
    """The answer to a question about server or model; `None` for an inference.

    Args:
        method: of the request.
        path: its path; the protocol's may stand behind a prefix of the route's.
        name: what the model is called here.
        inputs: what it takes.
        outputs: what it gives.
    """
    place = _PLACE.search(path)
    if place is None:
        return None  # a path of the route's own: an inference
    if place["model"] is not None and place["model"] != name:
        return Response.json({"error": f"there is no model {place['model'][:80]!r} here, but {name!r}"}, 404)
    if place["what"] == "/infer":
        return None
    if method not in ("GET", "HEAD"):
        return Response.json(
            {"error": "inferences are asked for at /v2/models/NAME/infer"}, 405, {"allow": "GET, HEAD"}
        )
    if place["health"]:
        return Response.json({place["health"]: True})
    if place["model"] is None:
        return Response.json({"name": "gatewright", "version": "2", "extensions": ["binary_tensor_data"]})
    if place["what"] == "/ready":
        return Response.json({"name": name, "ready": True})
    return Response.json(
        {"name": name, "versions": [], "platform": "", "inputs": _shown(inputs), "outputs": _shown(outputs)}
    )


def _shown(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
