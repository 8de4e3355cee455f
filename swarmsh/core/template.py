"""Placeholders in host names, environment and mounts: the part of Go's templates that Swarm's users write.

Values are those of swarmkit's `template/context.go`. There are no functions but `index`, no pipes and no control
structures: what is not known is refused when a service is accepted, never passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from swarmsh.errors import InvalidSpec
from swarmsh.model.objects import Node, Task
from swarmsh.model.specs import ContainerSpec, Mount

_QUOTED = r"\"(?:\\.|[^\"\\\n])*\"|`[^`]*`"
# "{{- " and " -}}" take the white space beside them away, as in Go.
_ACTION = re.compile(
    rf"\{{\{{(?P<left>-\s)?(?P<body>(?:{_QUOTED}|/\*.*?\*/|(?!\}}\}})[^\"`])*?)(?P<right>\s-)?\}}\}}", re.DOTALL
)
_LITERAL = re.compile(_QUOTED)
_INDEX = re.compile(rf"index\s+\.Service\.Labels\s+(?P<key>{_QUOTED})")
_LABEL = re.compile(r"\.Service\.Labels\.(?P<key>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What placeholders may name."""

    service_id: str
    service_name: str
    service_labels: Mapping[str, str] = field(default_factory=dict)
    node_id: str
    node_hostname: str
    architecture: str = ""
    os: str = ""
    task_id: str
    task_name: str
    task_slot: str


_FIELDS: Mapping[str, Callable[[Context], str]] = {
    ".Service.ID": lambda c: c.service_id,
    ".Service.Name": lambda c: c.service_name,
    # Go prints maps sorted by key.
    ".Service.Labels": lambda c: f"map[{' '.join(f'{k}:{v}' for k, v in sorted(c.service_labels.items()))}]",
    ".Node.ID": lambda c: c.node_id,
    ".Node.Hostname": lambda c: c.node_hostname,
    ".Node.Platform.Architecture": lambda c: c.architecture,
    ".Node.Platform.OS": lambda c: c.os,
    ".Task.ID": lambda c: c.task_id,
    ".Task.Name": lambda c: c.task_name,
    ".Task.Slot": lambda c: c.task_slot,
}
PLACEHOLDERS: tuple[str, ...] = tuple(_FIELDS)


def context_of(task: Task, node: Node) -> Context:
    """The values of a task on its node. A global service's task has its node's id for slot, as in Docker."""
    platform = node.description.platform
    return Context(
        service_id=task.service_id,
        service_name=task.service_name,
        service_labels=task.labels,
        node_id=node.id,
        node_hostname=node.hostname,
        architecture=platform.architecture,
        os=platform.os,
        task_id=task.id,
        task_name=task.name,
        task_slot=node.id if task.number is None else str(task.number),
    )


def sample_context(name: str, labels: Mapping[str, str]) -> Context:
    """Values to try a spec's placeholders with before any task exists."""
    return Context(
        service_id="serviceid",
        service_name=name,
        service_labels=labels,
        node_id="nodeid",
        node_hostname="nodehostname",
        architecture="architecture",
        os="os",
        task_id="taskid",
        task_name="taskname",
        task_slot="1",
    )


def expand(text: str, context: Context) -> str:
    """`text` with every placeholder replaced. Raises InvalidSpec for one that is not known."""
    if "{{" not in text:
        return text
    parts: list[str] = []
    at, trim = 0, False
    for action in _ACTION.finditer(text):
        literal = _literal(text[at : action.start()], trim)
        parts.append(literal.rstrip() if action["left"] else literal)
        parts.append(_evaluate(action["body"].strip(), context))
        at, trim = action.end(), bool(action["right"])
    parts.append(_literal(text[at:], trim))
    return "".join(parts)


def _literal(text: str, trim: bool) -> str:
    if "{{" in text:
        raise InvalidSpec(f"unclosed action: {text[text.index('{{') :]}")
    return text.lstrip() if trim else text


def expand_container(spec: ContainerSpec, context: Context) -> ContainerSpec:
    """The spec with placeholders replaced where swarmkit does (`template/expand.go`). Raises InvalidSpec."""
    return replace(
        spec,
        env=tuple(_expand_env(entry, context) for entry in spec.env),
        mounts=tuple(_expand_mount(mount, context) for mount in spec.mounts),
        hostname=_within("expanding hostname failed", spec.hostname, context),
    )


def _expand_env(entry: str, context: Context) -> str:
    name, equals, value = entry.partition("=")
    return name + equals + _within(f"expanding env failed: expanding env {json.dumps(entry)}", value, context)


def _expand_mount(mount: Mount, context: Context) -> Mount:
    options = mount.volume_options
    if options is not None:
        driver = options.driver_config
        if driver is not None:
            driver = replace(driver, options=_expand_map("volume driver config", driver.options, context))
        labels = _expand_map("volume labels", options.labels, context)
        options = replace(options, labels=labels, driver_config=driver)
    what = "expanding mounts failed: expanding mount"
    return replace(
        mount,
        source=_within(f"{what} source {json.dumps(mount.source)}", mount.source, context),
        target=_within(f"{what} target {json.dumps(mount.target)}", mount.target, context),
        volume_options=options,
    )


def _expand_map(what: str, values: Mapping[str, str], context: Context) -> dict[str, str]:
    return {k: _within(f"expanding mounts failed: expanding {what}", v, context) for k, v in values.items()}


def _within(what: str, text: str, context: Context) -> str:
    try:
        return expand(text, context)
    except InvalidSpec as e:
        raise InvalidSpec(f"{what}: {e.message}", hint=e.hint) from e


def _evaluate(body: str, context: Context) -> str:
    if body.startswith("/*") and body.endswith("*/"):
        return ""
    if body in _FIELDS:
        return _FIELDS[body](context)
    if _LITERAL.fullmatch(body):
        return _unquote(body)
    if found := _INDEX.fullmatch(body):
        return context.service_labels.get(_unquote(found["key"]), "")
    if (found := _LABEL.fullmatch(body)) and found["key"] in context.service_labels:
        return context.service_labels[found["key"]]
    raise InvalidSpec(
        f"placeholder {{{{{body}}}}} is not known",
        hint=f'Known are {", ".join(PLACEHOLDERS)} and index .Service.Labels "name"',
    )


def _unquote(quoted: str) -> str:
    if quoted.startswith("`"):
        return quoted[1:-1]
    try:
        value = json.loads(quoted)
    except ValueError:
        raise InvalidSpec(f"malformed string {quoted}") from None
    return str(value)
