"""GET requests at a steady rate: a program of its own, to be run inside the lab's network.

    python load.py URL…

Some 20 a second to each URL, in four strands, each request on a connection of its own. It says `ready` when every
strand has had its first, ends with its standard input (or after LIMIT_S), and prints what it counted:
{"answered": {URL: number}, "failed": [what went wrong, …]}.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.request

STRANDS = 4
PAUSE_S = 0.2  # after each request of a strand
PATIENCE_S = 30.0  # busy machines are slow: a failure is a refusal, a reset, or an answer that never comes
LIMIT_S = 300.0

# Without the environment's proxies.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Strand(threading.Thread):
    """One request after another to one URL, until `over`."""

    def __init__(self, url: str, over: threading.Event) -> None:
        super().__init__()
        self.url, self.over = url, over
        self.first = threading.Event()
        self.answered = 0
        self.failed: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with _open(self.url, timeout=PATIENCE_S) as answer:
                    answer.read()
                self.answered += 1
            except (OSError, http.client.HTTPException) as e:
                self.failed.append(f"{self.url}: {e!r}")
            self.first.set()
            self.over.wait(PAUSE_S)


def main(urls: list[str]) -> None:
    over = threading.Event()
    strands = [Strand(url, over) for url in urls for _ in range(STRANDS)]
    for strand in strands:
        strand.start()
    for strand in strands:
        strand.first.wait()
    print("ready", flush=True)

    def end_with_input() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=end_with_input, daemon=True).start()
    over.wait(LIMIT_S)
    over.set()
    for strand in strands:
        strand.join()
    answered = {url: sum(s.answered for s in strands if s.url == url) for url in urls}
    print(json.dumps({"answered": answered, "failed": [f for s in strands for f in s.failed]}))


if __name__ == "__main__":
    main(sys.argv[1:])
