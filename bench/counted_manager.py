"""`swarmsh manager run` that writes its sessions' counters to a file when it gets SIGUSR1.

Run by the measurements: counted_manager.py FILE [options of `manager run`]. Nothing else is different.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from swarmsh.adapters.nodes.session import HelperSession  # noqa: E402
from swarmsh.adapters.nodes.sessions import NodeSessions  # noqa: E402


def main(counts: Path) -> None:
    """Count requests by what they ask for, and take over the manager's own counters when asked."""
    made: list[NodeSessions] = []
    asked: dict[str, Counter[str]] = {}
    init, request, renew = NodeSessions.__init__, HelperSession.request, HelperSession.renew_lease

    def noted_init(self: NodeSessions, *args: Any, **more: Any) -> None:
        init(self, *args, **more)
        made.append(self)

    async def noted_request(self: HelperSession, op: str, args: object, deadline_s: float) -> Any:
        asked.setdefault(self.node, Counter())[op] += 1
        return await request(self, op, args, deadline_s)

    def noted_renew(self: HelperSession, deadline_s: float) -> None:
        asked.setdefault(self.node, Counter())["lease"] += 1
        renew(self, deadline_s)

    def write(*_: object) -> None:
        kept = [k for sessions in made for k in sessions._kept.values()]
        told = {k.name: {**asdict(k.counters), "ops": dict(asked.get(k.name, {}))} for k in kept}
        temporary = counts.with_suffix(".tmp")
        temporary.write_text(json.dumps(told))
        os.replace(temporary, counts)

    NodeSessions.__init__ = noted_init  # type: ignore[method-assign]
    HelperSession.request = noted_request  # type: ignore[method-assign]
    HelperSession.renew_lease = noted_renew  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, write)

    from swarmsh.cli import main as swarmsh

    swarmsh()


if __name__ == "__main__":
    file, *rest = sys.argv[1:]
    sys.argv = ["swarmsh", "manager", "run", *rest]
    main(Path(file))
