"""The lab's one kind of expected error; anything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations


class LabError(Exception):
    """What happened, and (in `hint`) what the user can do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  {self.hint}" if self.hint else message
