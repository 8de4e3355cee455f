"""Names of hosts and keys: which are sound, and which was probably meant."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable

from swarmsh.adapters.inventory.records import RawInventory

_HOST = re.compile(r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    found = difflib.get_close_matches(word, list(known), 1, 0.7)
    return f"; did you mean {found[0]}?" if found else ""


def check_host_name(inventory: RawInventory, name: str, line: int) -> None:
    """Raises InventoryError for ranges, patterns, and what is no name."""
    if re.search(r"\[[^\]]*:[^\]]*\]", name):
        raise inventory.not_yet(line, f"the range {name}", "Write each host on a line of its own")
    if _HOST.match(name):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return
    if any(c in name for c in "*?!&,[]"):
        raise inventory.not_yet(line, f"the pattern {name}", "Write each host on a line of its own")
    raise inventory.error(
        line, f"{name!r} is no name for a host", "Use letters, digits, dots, dashes and underscores"
    )
