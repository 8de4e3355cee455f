"""Image digests, asked of the registry through a node (the manager itself has no Engine)."""

from __future__ import annotations

from collections.abc import Sequence

from swarmsh.core.reference import parse_reference
from swarmsh.errors import Unavailable
from swarmsh.manager.ports import NodeClient, Store
from swarmsh.manager.usecases.lookup import require_cluster
from swarmsh.model.states import NodeState


async def resolve_image(
    store: Store, nodes: NodeClient, image: str, auth: str
) -> tuple[str, Sequence[tuple[str, str]]]:
    """Digest and (os, architecture) platforms. Raises InvalidSpec, Unavailable, or the registry's refusal."""
    require_cluster(store.snapshot)
    reference = parse_reference(image).tagged()
    ready = (
        n for n in store.snapshot.nodes.values() if n.status.state is NodeState.READY and nodes.connected(n.id)
    )
    node = min(ready, key=lambda n: n.number, default=None)
    if node is None:
        raise Unavailable("no node is there to ask the registry", hint="Look at `docker node ls`")
    return await nodes.resolve_image(node.id, str(reference), auth)
