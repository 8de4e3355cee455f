"""What a service gets from the cluster for its spec: the last step of accepting it, and of rolling it back."""

from __future__ import annotations

from msgspec.structs import replace

from swarmsh.core.accept_endpoint import check_ports
from swarmsh.core.allocate import Allocator
from swarmsh.model.objects import Service


def attached(service: Service, allocator: Allocator) -> Service:
    """The service with VIPs, marks and published ports for its spec, whose networks are named by their ids.

    Raises InvalidSpec for ports that others have, NotFound for networks that went, Exhausted.
    """
    check_ports(allocator.snapshot, service.id, service.spec)
    return replace(service, endpoint=allocator.endpoint(service))
