"""The helper's log: one line per change of state on standard error (the journal), never a secret."""

from __future__ import annotations

import sys


def log(event: str, **fields: object) -> None:
    """Write `event key=value …`; values with blanks are quoted, empty ones left out."""
    parts = [event]
    for key, value in fields.items():
        text = str(value)
        if text:
            parts.append(f"{key}={text!r}" if " " in text or "\n" in text else f"{key}={text}")
    try:
        sys.stderr.write(" ".join(parts) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody reads the log: go on
