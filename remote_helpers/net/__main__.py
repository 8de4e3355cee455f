"""`python3 -m remote_helpers.net apply|purge|hairpin`: the data plane by hand; the state comes on standard input.

Prints `{"differed": […], "errors": […]}`.
"""

from __future__ import annotations

import asyncio
import json
import sys

from ..engine import Engine
from .apply import ApplyFailed, DataPlane


async def _act(plane: DataPlane, verb: str) -> list:
    if verb == "apply":
        return await plane.apply(json.load(sys.stdin))
    if verb == "purge":
        return await plane.purge()
    if verb == "hairpin":
        return plane.hairpin()
    raise SystemExit(__doc__)


def main() -> None:
    """Exit status 1 if something could not be done."""
    try:
        differed, errors = asyncio.run(_act(DataPlane(Engine()), (sys.argv[1:] or [""])[0])), []
    except ApplyFailed as e:
        differed, errors = e.differed, e.errors
    print(json.dumps({"differed": differed, "errors": errors}, indent=1))
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
