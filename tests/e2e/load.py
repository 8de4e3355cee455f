"""GET requests at a steady rate: a program of its own, to be run inside the lab's network.

    python load.py [--pause SECONDS] URL…

Four strands to each URL, each with a pause after each request (0.2 s if none is given: some 20 requests a second),
which has a connection of its own. It says `ready` when every strand has had its first, ends with its standard
input (or after LIMIT_S), and prints what it counted: {"answered": {URL: number}, "failed": [what went wrong, …],
"began_s": [when each of those began, …]}; times are counted from `ready`.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import urllib.request

STRANDS = 4
PAUSE_S = 0.2  # after each request of a strand, if nothing else is asked for
PATIENCE_S = 30.0  # busy machines are slow: a failure is a refusal, a reset, or an answer that never comes
LIMIT_S = 300.0
# Without the environment's proxies.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class Strand(threading.Thread):
    """One request after another to one URL, until `over`."""

    def __init__(self, url: str, pause_s: float, over: threading.Event) -> None:
        super().__init__()
        self.url, self.pause_s, self.over = url, pause_s, over
        self.first = threading.Event()
        self.answered = 0
        self.failed: list[str] = []
        self.began: list[float] = []  # each failed one, by the monotonic clock

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                with _open(self.url, timeout=PATIENCE_S) as answer:
                    answer.read()
                self.answered += 1
            except (OSError, http.client.HTTPException) as e:
                self.failed.append(f"{self.url}: {e!r}")
                self.began.append(began)
            self.first.set()
            self.over.wait(self.pause_s)


def main(urls: list[str]) -> None:
    over, pause_s = threading.Event(), PAUSE_S
    if urls[0] == "--pause":
        pause_s, urls = float(urls[1]), urls[2:]
    strands = [Strand(url, pause_s, over) for url in urls for _ in range(STRANDS)]
    for strand in strands:
        strand.start()
    for strand in strands:
        strand.first.wait()
    ready = time.monotonic()
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
    failed = [f for s in strands for f in s.failed]
    began_s = [round(began - ready, 3) for s in strands for began in s.began]
    print(json.dumps({"answered": answered, "failed": failed, "began_s": began_s}))


if __name__ == "__main__":
    main(sys.argv[1:])
