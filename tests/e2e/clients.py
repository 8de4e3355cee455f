"""Clients of web services as there are: a program of its own, to be run inside the lab's network.

    python clients.py [--new N] [--keep N] [--slow N] [--pause SECONDS] [--slow-s SECONDS] [--limit SECONDS] URL…

To each URL go N strands of each kind, with a pause after each request:

    new     a connection of its own for each request
    keep    requests on a kept connection. One that turns out to be closed before any byte of the reply is tried
            once more on a new one, as RFC 9112, 9.3.1 allows; that is counted
    slow    downloads that trickle for some seconds (`/stream` of the lab's `web`); whole if that is how they end

It says `ready` when every strand has had its first answer, ends with its standard input (or after the limit), and
prints {"answered": {KIND: number}, "by_url": {URL: number}, "versions": {VERSION: number}, "retried": number,
"failed": [[seconds from `ready` to the begin of the request, URL, KIND, what went wrong], …]}. Every answer is
read to its end; a failure is a refusal, a reset, an answer that is cut off or is none within 30 s, and any status
but 200.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

PATIENCE_S = 30.0
# The last step of a stream says how many milliseconds were left; steps are 100 ms apart, more on busy machines.
LAST_STEP_MS = 1000


class Unanswered(http.client.HTTPException):
    """The connection was closed before the reply began."""


class Strand(threading.Thread):
    """One request after another of one kind to one URL, until `over`."""

    def __init__(self, url: str, kind: str, pause_s: float, slow_s: float, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.url, self.kind, self.pause_s, self.slow_s, self.over = url, kind, pause_s, slow_s, over
        self.first = threading.Event()
        self.answered = self.retried = 0
        self.versions: Counter[str] = Counter()
        self.failed: list[tuple[float, str]] = []  # when it began, by the monotonic clock; what went wrong
        self._address = urlsplit(url).netloc
        self._link: http.client.HTTPConnection | None = None

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                {"new": self._new, "keep": self._keep, "slow": self._slow}[self.kind]()
                self.answered += 1
            except (OSError, http.client.HTTPException) as e:
                self.failed.append((began, repr(e)))
                self._close()
            self.first.set()
            self.over.wait(self.pause_s)
        self._close()

    def _new(self) -> None:
        self._note(self._ask("/", {"Connection": "close"}))
        self._close()

    def _keep(self) -> None:
        kept = self._link is not None
        try:
            self._note(self._ask("/", {}))
        except Unanswered:
            if not kept:
                raise
            self._close()
            self.retried += 1
            self._note(self._ask("/", {}))

    def _slow(self) -> None:
        body = self._ask(f"/stream?s={self.slow_s}", {"Connection": "close"})
        self._close()
        left = body.rstrip("\n").rpartition("left_ms=")[2]
        if not left.isdecimal() or int(left) > LAST_STEP_MS:
            raise http.client.IncompleteRead(body[-40:].encode())

    def _ask(self, path: str, headers: dict[str, str]) -> str:
        if self._link is None:
            link = http.client.HTTPConnection(self._address, timeout=PATIENCE_S)
            link.connect()
            self._link = link
        try:
            self._link.request("GET", path, headers=headers)
            answer = self._link.getresponse()
        except (ConnectionResetError, BrokenPipeError) as e:  # of which RemoteDisconnected is one
            raise Unanswered(repr(e)) from e
        body = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}: {body[:80]}")
        return body

    def _note(self, body: str) -> None:
        self.versions[body.partition("version=")[2].partition("\n")[0]] += 1

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def main() -> None:
    parser = argparse.ArgumentParser()
    for kind, strands in (("new", 1), ("keep", 1), ("slow", 0)):
        parser.add_argument(f"--{kind}", type=int, default=strands, metavar="N")
    parser.add_argument("--pause", type=float, default=0.2)
    parser.add_argument("--slow-s", type=float, default=3.0)
    parser.add_argument("--limit", type=float, default=600.0)
    parser.add_argument("urls", nargs="+", metavar="URL")
    options = parser.parse_args()
    over = threading.Event()
    strands = [
        Strand(url, kind, options.pause, options.slow_s, over)
        for url in options.urls
        for kind in ("new", "keep", "slow")
        for _ in range(getattr(options, kind))
    ]
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
    over.wait(options.limit)
    over.set()
    for strand in strands:
        strand.join(2 * PATIENCE_S)
    answered: Counter[str] = Counter()
    by_url: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    for strand in strands:
        answered[strand.kind] += strand.answered
        by_url[strand.url] += strand.answered
        versions.update(strand.versions)
    failed = [(round(at - ready, 3), s.url, s.kind, words) for s in strands for at, words in s.failed]
    hung = [(0.0, s.url, s.kind, "never came to an end") for s in strands if s.is_alive()]
    print(
        json.dumps(
            {
                "answered": answered,
                "by_url": by_url,
                "versions": versions,
                "retried": sum(s.retried for s in strands),
                "failed": sorted(failed + hung),
            }
        )
    )


if __name__ == "__main__":
    main()
