"""Endpoints of the Engine API that are not answered, each with what to use instead. `docs/api.md` lists them."""

from __future__ import annotations

from dataclasses import dataclass

JOIN_TOKENS = "There are no join tokens: nodes are added from here over SSH, with `swarmsh node add`"
JOIN = "A node is not joined from its own side: add it from here over SSH, with `swarmsh node add`"
CA_ROTATION = (
    "There is no certificate authority to rotate: nodes and manager know each other by their SSH and identity keys"
)
CERT_EXPIRY = (
    "There are no certificates that could expire: nodes and manager know each other by their SSH and identity keys"
)
HEARTBEAT = "The heartbeat cannot be set: each node is heard of every second over its SSH session"
RAFT = "There are no Raft snapshots: the state is one SQLite database, written as it changes"
TASK_LOGS = "There is no log driver for all tasks: give it to each service (`--log-driver`), or to each Engine"
AUTOLOCK = (
    "There is no autolock: what is secret in the state directory is encrypted, its key in a file beside it, in "
    "the OS keyring, or made of a passphrase: see `swarmsh manager rotate-key` and `swarmsh manager unlock`"
)
FORCE_NEW_CLUSTER = (
    "There is no quorum to force: start a manager on the state directory, or on a copy of it, with "
    "`swarmsh manager run --state DIR`"
)
CONTAINERS = (
    "Containers of the cluster are tasks: use `docker service ps`, `docker service logs` or "
    "`swarmsh service exec`; for other containers, talk to their own Engine (`docker -H ssh://NODE`)"
)
IMAGES = (
    "Images stay on the nodes' own Engines, which pull what services need: build and push with another docker "
    "context, or talk to one Engine (`docker -H ssh://NODE`)"
)
VOLUMES = (
    "Volumes are each node's own, made when a service first mounts them, with the driver and options of its "
    "`--mount`: to make one before, talk to that Engine (`docker -H ssh://NODE volume create …`); cluster volumes "
    "are not supported"
)
CONNECTING = (
    "Containers of the cluster are tasks, on the networks that their service's spec names: nothing is connected "
    "to a network, or taken from it, by hand"
)
PLUGINS = "Plugins are each node's own: talk to that Engine (`docker -H ssh://NODE plugin …`)"
DISK_USAGE = "Disk usage is each node's own: talk to that Engine (`docker -H ssh://NODE system df`)"
LOGIN = "Log in with another docker context; `docker service create --with-registry-auth` passes credentials on"
BUILD = "Images are not built here: build and push with another docker context (`docker --context default build`)"


@dataclass(frozen=True)
class Refusal:
    """All of `methods` on `path` and what is below it (`{rest:.*}`)."""

    path: str
    message: str
    methods: tuple[str, ...] = ("GET", "POST", "PUT", "DELETE", "HEAD")


# The first that fits decides; what is answered is routed before.
REFUSALS = (
    Refusal("/swarm/join", JOIN),
    Refusal("/swarm/unlock", AUTOLOCK),
    Refusal("/containers/{rest:.*}", CONTAINERS),
    Refusal("/exec/{rest:.*}", CONTAINERS),
    Refusal("/commit", CONTAINERS),
    Refusal("/images/{rest:.*}", IMAGES),
    Refusal("/build", BUILD),
    Refusal("/build/{rest:.*}", BUILD),
    Refusal("/session", BUILD),
    Refusal("/grpc", BUILD),
    Refusal("/volumes/create", VOLUMES, ("POST",)),
    Refusal("/volumes/{rest:.*}", VOLUMES, ("PUT",)),
    Refusal("/networks/{id}/connect", CONNECTING, ("POST",)),
    Refusal("/networks/{id}/disconnect", CONNECTING, ("POST",)),
    Refusal("/plugins", PLUGINS),
    Refusal("/plugins/{rest:.*}", PLUGINS),
    Refusal("/system/df", DISK_USAGE),
    Refusal("/auth", LOGIN),
)
