"""Registry credentials whose service is not there."""

from __future__ import annotations

import pytest

from swarmsh.errors import Locked, StoreCorrupt
from swarmsh.manager.usecases.credentials import changing, forget, forget_orphans, registry_auth
from swarmsh.model.snapshot import Changes
from tests.fakes.objects import a_service
from tests.fakes.store import MemoryStore
from tests.fakes.time_and_ids import FakeClock


async def test_credentials_without_a_service_are_forgotten_and_others_kept() -> None:
    store = MemoryStore(FakeClock())
    service = a_service()
    await store.commit(lambda _: Changes(put_services=(service,)))
    kept = {f"registry-auth/{service.id}": b"a", f"registry-auth/{service.id}/previous": b"b", "other/x": b"c"}
    for key in (*kept, "registry-auth/gone", "registry-auth/gone/previous", "registry-auth/never"):
        await store.put_secret(key, kept.get(key, b"orphan"))
    assert await forget_orphans(store) == 3
    assert store.secrets == kept
    assert await registry_auth(store, service.id) == "a"
    assert await forget_orphans(store) == 0


# --- while they cannot be opened ------------------------------------------------------------------------------
async def a_locked_store() -> tuple[MemoryStore, str]:
    store, service = MemoryStore(FakeClock()), a_service()
    await store.commit(lambda _: Changes(put_services=(service,)))
    await store.put_secret(f"registry-auth/{service.id}", b"now")
    await store.put_secret(f"registry-auth/{service.id}/previous", b"then")
    store.locked = "the manager is locked"
    return store, service.id


async def test_a_service_with_credentials_is_changed_while_the_store_is_locked() -> None:
    store, service_id = await a_locked_store()
    before = dict(store.secrets)
    async with changing(store, service_id, given="", source="spec", rollback=False):
        pass
    assert store.secrets == before


@pytest.mark.parametrize(("given", "rollback"), [("new", False), ("", True)])
async def test_a_locked_store_refuses_other_credentials_than_the_present_ones(given: str, rollback: bool) -> None:
    store, service_id = await a_locked_store()
    before = dict(store.secrets)
    with pytest.raises(Locked):
        async with changing(store, service_id, given=given, source="spec", rollback=rollback):
            raise AssertionError("the service was changed")
    assert store.secrets == before


async def test_a_locked_store_forgets_credentials() -> None:
    store, service_id = await a_locked_store()
    await forget(store, service_id)
    assert store.secrets == {}


async def test_a_service_without_credentials_is_rolled_back_while_the_store_is_locked() -> None:
    store, _ = await a_locked_store()
    async with changing(store, "another", given="", source="spec", rollback=True):
        pass


async def test_credentials_that_do_not_open_are_given_again_and_keep_nothing_from_a_change() -> None:
    class Damaged(MemoryStore):
        async def get_secret(self, key: str) -> bytes | None:
            if self.secrets.get(key) == b"damaged":
                raise StoreCorrupt("it does not open")
            return await super().get_secret(key)

    store = Damaged(FakeClock())
    store.secrets = {"registry-auth/s": b"damaged"}
    async with changing(store, "s", given="", source="spec", rollback=False):
        pass
    async with changing(store, "s", given="new", source="spec", rollback=False):
        pass
    assert await registry_auth(store, "s") == "new"
