"""Stacks: what a compose file comes to, in the Engine API's words, and what is kept of each deploy.

Names are of two kinds. The *short* one is the file's and is the key of every map here; the full one (`spec.name`,
`name`) is the object's: `<stack>_<short>`, or what the file says with `name:`. Within services, networks, secrets
and configs are named by their full names; their ids are filled in by the transaction that deploys them.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import field

from swarmsh.model.revisions import Author
from swarmsh.model.specs import Driver, NetworkSpec, ServiceSpec
from swarmsh.model.wire import Record, always

NAMESPACE = "com.docker.stack.namespace"  # of every object of a stack: its name
STACK_IMAGE = "com.docker.stack.image"  # of a service: the image as the file has it, before a digest was added


class Condition(StrEnum):
    """What is waited for of another service of the stack."""

    STARTED = "started"  # each of its tasks runs, or ran
    HEALTHY = "healthy"  # and is ready: its healthcheck or probe passes
    COMPLETED = "completed"  # its tasks, or its job's runs, have ended with status 0


class Dependency(Record):
    """`required` False: nothing is waited for where the other service is not there."""

    condition: Condition = always(Condition.STARTED)
    required: bool = always(True)
    restart: bool = False  # the tasks are replaced after an update of the other service


class StackNetwork(Record):
    """An overlay of the stack; of an external one only `spec.name` counts, and it must be there."""

    spec: NetworkSpec = field(default_factory=NetworkSpec)
    external: bool = False


class StackFile(Record):
    """A secret or a config. An external one has a name only, and must be there; any other one has `data`."""

    name: str = always("")
    labels: dict[str, str] = field(default_factory=dict)
    data: bytes | None = None  # base64 in JSON
    external: bool = False
    templating: Driver | None = None

    def __repr__(self) -> str:
        held = "no data" if self.data is None else f"{len(self.data)} bytes"
        return f"{type(self).__name__}(name={self.name!r}, external={self.external}, {held})"


class StackSecret(StackFile):
    driver: Driver | None = None  # of a secret store; none is built in


class StackConfig(StackFile):
    pass


class StackSpec(Record):
    """A whole stack; each key is a short name.

    `services`: `spec.name` is the full name; labels as Docker's CLI sets them, `NAMESPACE` and
    `STACK_IMAGE` included.
    `depends_on`: service -> the services it waits for.
    """

    name: str = always("")
    services: dict[str, ServiceSpec] = field(default_factory=dict)
    networks: dict[str, StackNetwork] = field(default_factory=dict)
    secrets: dict[str, StackSecret] = field(default_factory=dict)
    configs: dict[str, StackConfig] = field(default_factory=dict)
    depends_on: dict[str, dict[str, Dependency]] = field(default_factory=dict)


class StackRequest(StackSpec):
    """A stack as it is sent to be deployed. `registry_auth`: service -> `X-Registry-Auth` for its image."""

    registry_auth: dict[str, str] = field(default_factory=dict)


class StackRevision(Record, kw_only=True):
    """A deploy that changed something. `number` counts a stack's from 1; the store gives it.

    `spec` is without data; `contents` says under which key of the store that of each secret and config is:
    "secret/<short>" -> key. Services are as they were accepted, images with their digests.
    """

    stack: str
    number: int = 0
    version: int = 0  # the index that it was stored at
    time: float = 0.0
    author: Author = Author()  # action: deploy | rollback to N
    spec: StackSpec
    contents: dict[str, str] = field(default_factory=dict)


def contents_prefix(stack: str) -> str:
    """Of the keys under which contents of a stack's revisions are kept."""
    return f"stack/{stack}/"
