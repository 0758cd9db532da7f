"""A server of the Open Inference Protocol, over HTTP and gRPC, in a process of its own.

It stands in for Triton, KServe and MLServer where none of them is installed: written from the protocol's specification,
with nothing of the plugin's own code. Its model `double` has the input `x` (FP32, [-1, 4]), and gives `y`, twice of it,
and `s`, the rows' sums as text. Port numbers are printed when it is ready.
"""

from __future__ import annotations

import json
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

METADATA = {
    "name": "double",
    "versions": ["1"],
    "platform": "numpy",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
        {"name": "s", "datatype": "BYTES", "shape": [-1, 1]},
    ],
}


def double(x: Any) -> tuple[Any, list[bytes]]:
    if (x == 13).any():
        raise ValueError("thirteen is not doubled")
    return x * 2, [f"{value:g}".encode() for value in x.sum(axis=1)]


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.removesuffix("/versions/1") == "/v2/models/double":
            return self.answer(200, json.dumps(METADATA).encode())
        return self.answer(404, b'{"error": "no such model"}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") == "Bearer wrong":
            return self.answer(401, b'{"error": "who?"}')
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        document, raw = json.loads(body[:length]), body[length:]
        (given,) = document["inputs"]
        assert given["datatype"] == "FP32"
        size = given.get("parameters", {}).get("binary_data_size")
        flat = np.array(given["data"], "<f4") if size is None else np.frombuffer(raw[:size], "<f4")
        try:
            y, texts = double(flat.reshape(given["shape"]))
        except ValueError as error:
            return self.answer(400, json.dumps({"error": str(error)}).encode())
        outputs = [
            {"name": "y", "datatype": "FP32", "shape": list(y.shape)},
            {"name": "s", "datatype": "BYTES", "shape": [len(texts), 1]},
        ]
        answer = {"model_name": "double", "outputs": outputs}
        if not document.get("parameters", {}).get("binary_data_output"):
            outputs[0]["data"], outputs[1]["data"] = y.ravel().tolist(), [text.decode() for text in texts]
            return self.answer(200, json.dumps(answer).encode())
        contents = [y.astype("<f4").tobytes(), b"".join(struct.pack("<I", len(each)) + each for each in texts)]
        for output, content in zip(outputs, contents, strict=True):
            output["parameters"] = {"binary_data_size": len(content)}
        head = json.dumps(answer).encode()
        return self.answer(200, head + b"".join(contents), len(head))

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json" if length is None else "application/octet-stream")
        self.send_header("content-length", str(len(body)))
        if length is not None:
            self.send_header("Inference-Header-Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve_grpc() -> int:
    import grpc

    sys.path.insert(0, str(Path(__file__).parent))
    pb, services = grpc.protos_and_services("oip.proto")  # type: ignore[attr-defined]

    class Service(services.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelMetadata(self, request: Any, context: Any) -> Any:
            if request.name != "double":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            return pb.ModelMetadataResponse(**METADATA)

        def ModelInfer(self, request: Any, context: Any) -> Any:
            (given,) = request.inputs
            x = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(list(given.shape))
            try:
                y, texts = double(x)
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            answer = pb.ModelInferResponse(model_name="double")
            first = answer.outputs.add(name="y", datatype="FP32", shape=y.shape)
            second = answer.outputs.add(name="s", datatype="BYTES", shape=[len(texts), 1])
            if request.model_version == "raw":
                answer.raw_output_contents.append(y.astype("<f4").tobytes())
                answer.raw_output_contents.append(b"".join(struct.pack("<I", len(each)) + each for each in texts))
            else:
                first.contents.fp32_contents.extend(y.ravel().tolist())
                second.contents.bytes_contents.extend(texts)
            return answer

    server = grpc.server(ThreadPoolExecutor(4))
    services.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    globals()["kept"] = server
    return int(port)


if __name__ == "__main__":
    http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    print(http.server_address[1], serve_grpc(), flush=True)
    http.serve_forever()
