"""What blacking secrets out of a log line costs, and that no text makes it cost more.

python -m benchmarks.redaction
"""

from __future__ import annotations

from time import perf_counter

from gatewright.redaction import redact

LINE = (
    "2026-01-01T00:00:00Z [error] plugin failed: request refused  error=RuntimeError: no such user plugin=counted "
    "route=route#7 call=5 request_id=4bf92f3577b34da6a3ce929d0e0e4736 worker=1"
)
TEXTS = {
    "a usual line": LINE,
    "a line with a secret": LINE + " authorization: Bearer abcdefghijklmnop",
    "64 KiB of a-a-a-": "a-" * (1 << 15),
    "64 KiB of password": "password" * (1 << 13),
    "64 KiB of open quotes": "password='" * (1 << 16),
}


def main() -> None:
    for name, text in TEXTS.items():
        text = text[: 1 << 16]
        times = max((1 << 20) // len(text), 3)
        best = float("inf")
        for _ in range(5):
            began = perf_counter()
            for _ in range(times):
                redact(text)
            best = min(best, (perf_counter() - began) / times)
        print(f"{name:24} {len(text):6} characters {best * 1e6:9.1f} us {best / len(text) * 1024e3:7.3f} ms per KiB")


if __name__ == "__main__":
    main()
