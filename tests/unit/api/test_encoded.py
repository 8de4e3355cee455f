"""What the API keeps of encoded objects."""

from __future__ import annotations

import pytest

from swarmsh.api import encoded
from swarmsh.api.encoded import EncodedObjects
from tests.fakes.objects import a_service, a_task


@pytest.fixture
def rendered(monkeypatch):
    monkeypatch.setattr(encoded, "_MOST", 3)
    return []


async def test_only_so_many_texts_are_kept_and_those_asked_for_last(rendered):
    def render(task):
        rendered.append(task.slot)
        return {"slot": task.slot}

    kept = EncodedObjects()
    first, *others = (a_task(a_service(), n) for n in range(1, 6))
    for task in others:
        kept.one(first, render)
        assert kept.one(task, render) == b'{"slot":%d}' % task.slot
    assert rendered == [1, 2, 3, 4, 5]
    assert len(kept._kept) == 3
    assert await kept.many([first, others[0]], render) == b'[{"slot":1},{"slot":2}]'
    assert rendered == [1, 2, 3, 4, 5, 2]


def test_thousands_are_enough():
    assert 1_000 <= encoded._MOST <= 10_000
