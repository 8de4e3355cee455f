"""A loaded project as a stack of Docker's specs, the same as `docker stack deploy` makes of what it takes.

Differences are on purpose, and `docs/compose.md` has them all: what the docker CLI ignores is honoured where a
cluster can, warned about by name where it cannot, and refused where it would run otherwise than the file says.
"""

from __future__ import annotations

from collections.abc import Callable

from swarmsh.compose.convert.check import check_keys
from swarmsh.compose.convert.container import container_of
from swarmsh.compose.convert.depends import awaited_to_the_end, dependencies_of
from swarmsh.compose.convert.deploy import (
    mode_of,
    placement_of,
    resources_of,
    restart_policy_of,
    update_config_of,
    warn_of_repeats,
)
from swarmsh.compose.convert.files import Sources, configs_of, read_file, secrets_of
from swarmsh.compose.convert.keys import KEYS, Fate, Key
from swarmsh.compose.convert.names import Names
from swarmsh.compose.convert.networks import DEFAULT, attachments_of, networks_of
from swarmsh.compose.convert.ports import BIND, bound_address, endpoint_of, warn_of_databases
from swarmsh.compose.convert.spot import Spot
from swarmsh.compose.project import Notice, Project
from swarmsh.model.specs import Driver, ServiceSpec, TaskSpec
from swarmsh.model.stacks import STACK_IMAGE, StackSpec

__all__ = ["KEYS", "Fate", "Key", "convert"]

_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")


def convert(
    project: Project,
    stack: str,
    *,
    working_dir: str = ".",
    warnings: list[Notice] | None = None,
    read: Callable[[str], bytes] = read_file,
) -> StackSpec:
    """The stack of that name which the project describes.

    `read` gives the contents of files, relative ones below `working_dir`. What has no effect is added to
    `warnings` (default: the project's own). Raises ComposeError for what a cluster cannot do, with the way out.
    """
    noted = project.warnings if warnings is None else warnings

    def warn(spot: Spot, message: str) -> None:
        notice = Notice(spot.path, message)
        if notice not in noted:
            noted.append(notice)

    sources = Sources(project.environment, working_dir, read)
    whole = Spot(project, (), {name: getattr(project, name) for name in _SECTIONS})
    check_keys(whole, warn)
    return _Conversion(whole, Names(stack), sources, warn).stack()


class _Conversion:
    """One project on its way; `warn` takes what has no effect."""

    def __init__(self, project: Spot, names: Names, sources: Sources, warn: Callable[[Spot, str], None]) -> None:
        self._project, self._names, self._sources, self._warn = project, names, sources, warn
        self._run_once: frozenset[str] = frozenset()  # services that others wait for to be done

    def stack(self) -> StackSpec:
        services = self._project["services"]
        if not services:
            raise services.wrong("the stack has no services", hint="A profile may have left them all out")
        self._warn_of_volumes()
        used = self._used_networks()
        depends_on = dependencies_of(services)
        self._run_once = awaited_to_the_end(depends_on)
        return StackSpec(
            name=self._names.stack,
            services={short: self._service(spot, short) for short, spot in sorted(services.items())},
            networks=networks_of(self._project, used, self._names, self._warn),
            secrets=secrets_of(self._project["secrets"], self._names, self._sources),
            configs=configs_of(self._project["configs"], self._names, self._sources),
            depends_on=depends_on,
        )

    def _warn_of_volumes(self) -> None:
        mounted = {
            mount["source"].text()
            for _, service in self._project["services"].items()
            for mount in service["volumes"].each()
        }
        for short, volume in self._project["volumes"].items():
            if short not in mounted:
                self._warn(volume, "no service mounts it, and it is not made")

    def _used_networks(self) -> set[str]:
        used: set[str] = set()
        for _, service in self._project["services"].items():
            if not service["network_mode"]:
                used |= set(service["networks"].keys() or [DEFAULT])
        return used

    def _service(self, service: Spot, short: str) -> ServiceSpec:
        bind = bound_address(service)
        warn_of_databases(service, bind, self._warn)
        labels = service["deploy"]["labels"].pairs() | ({BIND: bind} if bind else {})
        deploy = service["deploy"]
        awaited = short in self._run_once
        if awaited:
            warn_of_repeats(service, self._warn)
        return ServiceSpec(
            name=self._names.scoped(short),
            labels={**self._names.labelled(labels), STACK_IMAGE: service["image"].text()},
            task_template=self._task(service, run_once=awaited),
            mode=mode_of(service),
            update_config=update_config_of(deploy["update_config"]),
            rollback_config=update_config_of(deploy["rollback_config"]),
            endpoint_spec=endpoint_of(service, self._warn),
        )

    def _task(self, service: Spot, *, run_once: bool) -> TaskSpec:
        sections = {name: self._project[name] for name in ("volumes", "secrets", "configs")}
        return TaskSpec(
            container_spec=container_of(service, sections, self._names, self._sources, self._warn),
            resources=resources_of(service),
            restart_policy=restart_policy_of(service, run_once=run_once),
            placement=placement_of(service),
            networks=attachments_of(service, self._project["networks"], self._names),
            log_driver=_log_driver(service["logging"]),
        )


def _log_driver(logging: Spot) -> Driver | None:
    if not logging.given:
        return None
    return Driver(name=logging["driver"].text(), options=logging["options"].pairs())
