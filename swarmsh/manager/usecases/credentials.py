"""Registry credentials of services: the client's `X-Registry-Auth`, encrypted at rest, for the present spec and
the previous one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from swarmsh.errors import InvalidSpec
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
    for previous in (False, True):
        if await store.get_secret(_key(service_id, previous=previous)) is not None:
            await store.put_secret(_key(service_id, previous=previous), None)


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
    """
    if source not in ("", "spec", "previous-spec"):
        raise InvalidSpec(f"unsupported registryAuthFrom value: {source}")
    async with _turns.setdefault(service_id, asyncio.Lock()):
        present = await store.get_secret(_key(service_id))
        previous = await store.get_secret(_key(service_id, previous=True))
        kept = previous if rollback or source == "previous-spec" else present
        wanted = given.encode() if given else kept
        await _write(store, service_id, (present, previous), (wanted, present))
        try:
            yield
        except BaseException:
            await _write(store, service_id, (wanted, present), (present, previous))
            raise


async def _write(
    store: Store,
    service_id: str,
    stored: tuple[bytes | None, bytes | None],
    wanted: tuple[bytes | None, bytes | None],
) -> None:
    for previous, was, value in zip((False, True), stored, wanted, strict=True):
        if was != value:
            await store.put_secret(_key(service_id, previous=previous), value)
