"""Registry credentials of services: the client's `X-Registry-Auth`, encrypted at rest, for the present spec and
the previous one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakValueDictionary

from swarmsh.errors import InvalidSpec, StoreCorrupt
from swarmsh.manager.ports import Store

# Two updates of one service must not put each other's credentials back; nothing else is shared between calls.
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


_PREFIX = "registry-auth/"


def _key(service_id: str, *, previous: bool = False) -> str:
    return _PREFIX + service_id + ("/previous" if previous else "")


async def registry_auth(store: Store, service_id: str) -> str:
    """`X-Registry-Auth` to pull the service's image with; empty if it was given none."""
    return (await store.get_secret(_key(service_id)) or b"").decode()


def has_credentials(store: Store, service_id: str) -> bool:
    return _key(service_id) in store.secret_keys()


async def store_first(store: Store, service_id: str, auth: str) -> None:
    if auth:
        await store.put_secret(_key(service_id), auth.encode())


@asynccontextmanager
async def storing(store: Store, service_id: str, auth: str) -> AsyncIterator[None]:
    """Have the credentials of a new service in place while it is committed; drop them again if it fails."""
    await store_first(store, service_id, auth)
    try:
        yield
    except BaseException:
        await forget(store, service_id)
        raise


async def forget(store: Store, service_id: str) -> None:
    """Delete what a service was given; nothing of it is opened, so that a locked store forgets too."""
    for key in _stored_keys(store, service_id):
        await store.put_secret(key, None)


def _stored_keys(store: Store, service_id: str) -> list[str]:
    known = store.secret_keys()
    return [key for key in (_key(service_id), _key(service_id, previous=True)) if key in known]


async def forget_orphans(store: Store) -> int:
    """Delete credentials whose service is not there: they are stored before it, and deleted after it, so an end of
    the process in between leaves them. To be called while no service is being created; returns how many."""
    orphans = [
        key
        for key in store.secret_keys()
        if key.startswith(_PREFIX) and key.split("/")[1] not in store.snapshot.services
    ]
    for key in orphans:
        await store.put_secret(key, None)
    return len(orphans)


@asynccontextmanager
async def changing(
    store: Store, service_id: str, *, given: str, source: str, rollback: bool
) -> AsyncIterator[None]:
    """Have the credentials of the new spec in place while it is committed; put the old ones back if it fails.

    `given` wins; else they are those of `source`: "spec" (or "", the present one) or "previous-spec".
    A locked store goes on with the present ones; where others are needed, it raises Locked.
    """
    if source not in ("", "spec", "previous-spec"):
        raise InvalidSpec(f"unsupported registryAuthFrom value: {source}")
    back = rollback or source == "previous-spec"
    async with _turns.setdefault(service_id, asyncio.Lock()):
        if not given and (not _stored_keys(store, service_id) or (store.locked and not back)):
            yield
            return
        present = await _opened(store, _key(service_id))
        previous = await _opened(store, _key(service_id, previous=True))
        kept = previous if back else present
        wanted = given.encode() if given else kept
        await _write(store, service_id, (present, previous), (wanted, present))
        try:
            yield
        except BaseException:
            await _write(store, service_id, (wanted, present), (present, previous))
            raise


async def _opened(store: Store, key: str) -> bytes | None:
    """None also for what does not open: to be given again is all that helps it. Raises Locked."""
    with suppress(StoreCorrupt):
        return await store.get_secret(key)
    return None


async def _write(
    store: Store,
    service_id: str,
    stored: tuple[bytes | None, bytes | None],
    wanted: tuple[bytes | None, bytes | None],
) -> None:
    for previous, was, value in zip((False, True), stored, wanted, strict=True):
        if was != value:
            await store.put_secret(_key(service_id, previous=previous), value)
