"""Names that services and networks may have (swarmkit `manager/controlapi/common.go`)."""

from __future__ import annotations

import re

from swarmsh.errors import InvalidSpec

# swarmkit's pattern, in a form that needs no time exponential in the length of a wrong name.
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_LONGEST = 63


def check_name(name: str) -> None:
    """Raises InvalidSpec with swarmkit's words."""
    if not name:
        raise InvalidSpec("meta: name must be provided")
    if not _NAME.fullmatch(name):
        raise InvalidSpec("name must be valid as a DNS name component")
    if len(name) > _LONGEST:
        raise InvalidSpec(f"name must be {_LONGEST} characters or fewer")
