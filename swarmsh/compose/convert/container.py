"""The container half of a service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from swarmsh.compose.convert.files import Sources, config_references, credential_config, secret_references
from swarmsh.compose.convert.mounts import mounts_of
from swarmsh.compose.convert.names import Names
from swarmsh.compose.convert.run import run_labels_of
from swarmsh.compose.convert.spot import Spot, Warn
from swarmsh.core.quantities import effective_capabilities
from swarmsh.core.reference import parse_reference
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import (
    ContainerSpec,
    CredentialSpec,
    DNSConfig,
    HealthConfig,
    Privileges,
    Ulimit,
)


def container_of(
    service: Spot, project: Mapping[str, Spot], names: Names, sources: Sources, warn: Warn
) -> ContainerSpec:
    """`project` has the sections volumes, secrets and configs. Raises ComposeError."""
    added, dropped = effective_capabilities(service["cap_add"].texts(), service["cap_drop"].texts())
    labels = {**service["labels"].pairs(), **run_labels_of(service, sources)}
    return ContainerSpec(
        image=image_of(service),
        labels=names.labelled(labels),
        command=service["entrypoint"].texts(),
        args=service["command"].texts(),
        hostname=service["hostname"].text(),
        env=_environment(service["environment"]),
        dir=service["working_dir"].text(),
        user=service["user"].text(),
        groups=service["group_add"].texts(),
        privileges=Privileges(credential_spec=_credential_spec(service, project["configs"], names)),
        init=service["init"].flag() if service["init"].given else None,
        stop_signal=service["stop_signal"].text(),
        tty=service["tty"].flag(),
        open_stdin=service["stdin_open"].flag(),
        read_only=service["read_only"].flag(),
        mounts=mounts_of(service, project["volumes"], names, warn),
        stop_grace_period=service["stop_grace_period"].duration(),
        healthcheck=_healthcheck(service["healthcheck"]),
        hosts=tuple(_hosts(service["extra_hosts"])),
        dns_config=_dns(service),
        secrets=secret_references(service, project["secrets"], names),
        configs=config_references(service, project["configs"], names),
        isolation=service["isolation"].text(),
        sysctls=service["sysctls"].pairs(),
        capability_add=tuple(added),
        capability_drop=tuple(dropped),
        ulimits=_ulimits(service["ulimits"]),
        oom_score_adj=service["oom_score_adj"].number() or 0,
    )


def image_of(service: Spot) -> str:
    """As the docker CLI sends it: in its short form, with tag latest if it has neither tag nor digest."""
    image = service["image"].text()
    if not image:
        if service["build"]:
            raise service["build"].wrong(
                "images are not built here, and the service names none",
                hint="Build and push it (`docker compose build --push`), and name it with `image`",
            )
        raise service.wrong("no image specified", hint="Name one with `image`")
    try:
        return parse_reference(image).tagged().familiar
    except InvalidSpec as e:
        raise service["image"].wrong(f"'{image}' is no image: {e.message}", e.hint) from e


def _environment(spot: Spot) -> tuple[str, ...]:
    """Sorted, so that the order in a file restarts nothing. A name alone takes the variable away."""
    return tuple(sorted(name if not inner.given else f"{name}={inner.text()}" for name, inner in spot.items()))


def _hosts(spot: Spot) -> Iterable[str]:
    for name, addresses in spot.items():
        for address in addresses.texts():
            yield f"{address} {name}"


def _dns(service: Spot) -> DNSConfig | None:
    found = DNSConfig(
        nameservers=service["dns"].texts(),
        search=service["dns_search"].texts(),
        options=service["dns_opt"].texts(),
    )
    return found if found != DNSConfig() else None


def _healthcheck(spot: Spot) -> HealthConfig | None:
    if not spot.given:
        return None
    test = spot["test"].texts()
    if spot["disable"].flag():
        if test:
            raise spot["disable"].wrong("test and disable can't be set at the same time")
        return HealthConfig(test=("NONE",))
    return HealthConfig(
        test=test,
        interval=spot["interval"].duration() or 0,
        timeout=spot["timeout"].duration() or 0,
        start_period=spot["start_period"].duration() or 0,
        start_interval=spot["start_interval"].duration() or 0,
        retries=spot["retries"].number() or 0,
    )


def _ulimits(spot: Spot) -> tuple[Ulimit, ...]:
    return tuple(
        Ulimit(name=name, soft=limit["soft"].number() or 0, hard=limit["hard"].number() or 0)
        for name, limit in sorted(spot.items())
    )


def _credential_spec(service: Spot, configs: Spot, names: Names) -> CredentialSpec | None:
    spot = service["credential_spec"]
    given = [key for key in ("config", "file", "registry") if spot[key]]
    if not given:
        return None
    if len(given) > 1:
        raise spot.wrong(f"invalid credential spec: cannot specify both {' and '.join(given)}")
    return CredentialSpec(
        config=credential_config(service, configs, names) if given == ["config"] else "",
        file=spot["file"].text(),
        registry=spot["registry"].text(),
    )
