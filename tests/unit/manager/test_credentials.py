"""Registry credentials whose service is not there."""

from __future__ import annotations

from swarmsh.manager.usecases.credentials import forget_orphans, registry_auth
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
