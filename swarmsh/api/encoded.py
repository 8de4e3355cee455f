"""JSON of objects, made once for each version of an object: clients poll lists many times a second."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from swarmsh.model.objects import Node, Service, Task

O = TypeVar("O", Service, Task, Node)  # noqa: E741
_AT_A_TIME = 200  # objects encoded before the event loop gets its turn
_MOST = 5_000  # a few MB: tasks come and go for as long as the manager runs


class EncodedObjects:
    """Keyed by id, valid while the very same (immutable) object is asked for with the same `extra`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[object, object, bytes]] = OrderedDict()  # least recently used first

    def one(self, value: O, render: Callable[[O], Any], extra: object = None) -> bytes:
        found = self._kept.get(value.id)
        if found is not None and found[0] is value and found[1] == extra:
            self._kept.move_to_end(value.id)
            return found[2]
        encoded = msgspec.json.encode(render(value))
        self._kept[value.id] = (value, extra, encoded)
        self._kept.move_to_end(value.id)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return encoded

    async def many(self, values: Sequence[O], render: Callable[[O], Any]) -> bytes:
        """A JSON array; the loop stays live while a long one is made for the first time."""
        parts = []
        for number, value in enumerate(values):
            if number % _AT_A_TIME == _AT_A_TIME - 1:
                await asyncio.sleep(0)
            parts.append(self.one(value, render))
        return b"[" + b",".join(parts) + b"]"
