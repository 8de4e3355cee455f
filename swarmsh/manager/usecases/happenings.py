"""Lines of `docker events` for services, nodes, networks, with dockerd's attributes (moby `daemon/events.go`)."""

from __future__ import annotations

from swarmsh.model.objects import Event, Network, Node, Service


def service_event(action: str, service: Service, now: float, before: Service | None = None) -> Event:
    """`create`, `update` (against `before`) or `remove` of a service."""
    attributes = {"name": service.spec.name}
    if before is not None:
        _note(attributes, "replicas", _replicas(before), _replicas(service))
        _note(attributes, "image", _image(before), _image(service))
        _note(attributes, "updatestate", _update_state(before), _update_state(service))
        if service.update_status is not None and service.update_status.message != _update_message(before):
            attributes["message"] = service.update_status.message
    return Event(time=now, type="service", action=action, id=service.id, attributes=attributes)


def node_event(action: str, node: Node, now: float, before: Node | None = None) -> Event:
    attributes = {"name": node.hostname}
    if before is not None:
        _note(attributes, "availability", before.spec.availability, node.spec.availability)
        _note(attributes, "role", before.spec.role, node.spec.role)
        _note(attributes, "state", before.status.state, node.status.state)
    return Event(time=now, type="node", action=action, id=node.id, attributes=attributes)


def network_event(action: str, network: Network, now: float) -> Event:
    return Event(time=now, type="network", action=action, id=network.id, attributes={"name": network.spec.name})


def _note(attributes: dict[str, str], name: str, old: str, new: str) -> None:
    if old != new:
        attributes[f"{name}.old"] = str(old)
        attributes[f"{name}.new"] = str(new)


def _replicas(service: Service) -> str:
    mode = service.spec.mode.replicated
    return "" if mode is None else str(1 if mode.replicas is None else mode.replicas)


def _image(service: Service) -> str:
    container = service.spec.task_template.container_spec
    return container.image if container is not None else ""


def _update_state(service: Service) -> str:
    return service.update_status.state if service.update_status is not None else ""


def _update_message(service: Service) -> str:
    return service.update_status.message if service.update_status is not None else ""
