"""`service ls`, `ps`, `inspect`: what services are like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import click

from swarmsh.cli import complete
from swarmsh.cli.common import Failures, connect, filter_option, node_names
from swarmsh.cli.job_progress import job_modes
from swarmsh.cli.output import (
    ago,
    inspect_options,
    list_options,
    ports_words,
    print_inspected,
    print_list,
    short,
)
from swarmsh.cli.run_flags import split_labels
from swarmsh.cli.task_list import TaskListing, print_tasks, task_list_options
from swarmsh.client import ApiError
from swarmsh.core.words import size_words

Json = dict[str, Any]

SERVICE_COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}


@click.command("ls")
@filter_option("id, name, label, mode")
@list_options
def ls(filters: dict[str, list[str]], form: str, quiet: bool, no_trunc: bool) -> None:
    """List services."""
    services = connect().services(filters, status=True)
    rows = [
        service_row(service, no_trunc) for service in sorted(services, key=lambda found: found["Spec"]["Name"])
    ]
    print_list(rows, SERVICE_COLUMNS, form=form, quiet=quiet)


def service_row(service: Json, no_trunc: bool) -> Json:
    """Of a service that was listed with its status, for a table under SERVICE_COLUMNS."""
    spec = service["Spec"]
    status = service.get("ServiceStatus") or {}
    mode = spec.get("Mode") or {}
    task = spec.get("TaskTemplate", {})
    running, desired = status.get("RunningTasks", 0), status.get("DesiredTasks", 0)
    most = (task.get("Placement") or {}).get("MaxReplicas")
    image = (task.get("ContainerSpec") or {}).get("Image", "")
    return {
        "ID": service["ID"],
        "ID_short": short(service["ID"], no_trunc=no_trunc),
        "Name": spec["Name"],
        "Mode": _mode_words(mode),
        "Replicas": f"{running}/{desired}" + _beside(mode, status, most),
        "Running": running,
        "Desired": desired,
        "Completed": status.get("CompletedTasks", 0),
        "Image": image,
        "Image_short": image if no_trunc else image.partition("@")[0],
        "Ports": ports_words(
            [
                port
                for port in (service.get("Endpoint") or {}).get("Ports")
                or (spec.get("EndpointSpec") or {}).get("Ports")
                or []
                if port.get("PublishMode") != "host"
            ]
        ),
        "UpdateState": (service.get("UpdateStatus") or {}).get("State", ""),
    }


def _mode_words(mode: Json) -> str:
    words = {"Global": "global", "ReplicatedJob": "replicated job", "GlobalJob": "global job"}
    return next((word for key, word in words.items() if key in mode), "replicated")


def _beside(mode: Json, status: Json, most: int | None) -> str:
    """What stands after the running and desired tasks: of jobs how many are complete, as in Docker."""
    replicated, on_all = job_modes(mode)
    if replicated is None and on_all is None:
        return f" (max {most} per node)" if most else ""
    completed = status.get("CompletedTasks", 0)
    total = completed + status.get("DesiredTasks", 0) if replicated is None else replicated["TotalCompletions"]
    return f" ({completed}/{total} completed)"


@click.command("ps")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE…", shell_complete=complete.service_names)
@task_list_options("id, name, node, desired-state")
def ps(names: tuple[str, ...], filters: dict[str, list[str]], listing: TaskListing) -> None:
    """List the tasks of services."""
    manager = connect()
    services: dict[str, str] = {}
    with Failures() as failures:
        for name in names:
            try:
                found = manager.service(name)
                services[found["ID"]] = found["Spec"]["Name"]
            except ApiError as error:
                failures.add(error)
        if services:
            if filters.get("node"):
                filters["node"] = [manager.node(name)["ID"] for name in filters["node"]]
            tasks = manager.tasks(filters | {"service": list(services)})
            nodes = {} if listing.quiet else node_names(manager)
            print_tasks(tasks, services, nodes, listing)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="SERVICE…", shell_complete=complete.service_names)
@inspect_options
def inspect(names: tuple[str, ...], pretty: bool, form: str, quiet: bool) -> None:
    """Show all there is about services: a JSON array, or with --pretty what people look for."""
    manager = connect()
    found = []
    with Failures() as failures:
        for name in names:
            try:
                found.append(manager.service(name, defaults=True))
            except ApiError as error:
                failures.add(error)
        words: Callable[[Json], list[str]] = _pretty
        if (pretty or form == "table") and any(_network_targets(service) for service in found):
            by_id = {network["Id"]: network["Name"] for network in manager.networks()}
            words = partial(_pretty, networks=by_id)
        print_inspected(found, words, form=form, pretty=pretty, quiet=quiet)


def _network_targets(service: Json) -> list[str]:
    return [network["Target"] for network in service["Spec"].get("TaskTemplate", {}).get("Networks") or []]


def _pretty(service: Json, networks: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """`networks`: names by id."""
    spec = service["Spec"]
    task = spec.get("TaskTemplate", {})
    lines = [*_field("ID", service["ID"]), *_field("Name", spec["Name"])]
    lines += _mapping("Labels", spec.get("Labels"))
    mode = spec.get("Mode") or {}
    lines += _field("Service Mode", _mode_words(mode).capitalize())
    if "Replicated" in mode:
        lines += _field(" Replicas", (mode["Replicated"] or {}).get("Replicas"))
    lines += _job(service)
    status = service.get("UpdateStatus") or {}
    if status.get("State"):
        lines += ["UpdateStatus:", *_field(" State", status["State"])]
        lines += _field(" Started", ago(status.get("StartedAt", "")))
        lines += _field(" Completed", ago(status.get("CompletedAt", "")))
        lines += _field(" Message", status.get("Message"))
    lines += _placement(task.get("Placement") or {})
    lines += _rollout("UpdateConfig", spec.get("UpdateConfig"))
    lines += _rollout("RollbackConfig", spec.get("RollbackConfig"))
    lines += _container(task.get("ContainerSpec") or {})
    lines += _resources(task.get("Resources") or {})
    driver = task.get("LogDriver") or {}
    if driver:
        lines += [
            "Log Driver:",
            *_field(" Name", driver.get("Name")),
            *_mapping(" Options", driver.get("Options")),
        ]
    endpoint = spec.get("EndpointSpec") or {}
    lines += _field("Networks", ", ".join(networks.get(target, target) for target in _network_targets(service)))
    lines += _field("Endpoint Mode", endpoint.get("Mode") or "vip")
    vips = (service.get("Endpoint") or {}).get("VirtualIPs") or []
    for vip in vips:
        lines += _field(" VIP", f"{vip['Addr']} in {networks.get(vip['NetworkID'], vip['NetworkID'])}")
    ports = (service.get("Endpoint") or {}).get("Ports") or endpoint.get("Ports") or []
    if ports:
        lines.append("Ports:")
    for port in ports:
        lines += _field(" PublishedPort", port.get("PublishedPort", "chosen by the node"))
        for key in ("Protocol", "TargetPort", "PublishMode"):
            lines += _field(f"  {key}", port.get(key))
    return lines


def _job(service: Json) -> list[str]:
    status = service.get("JobStatus")
    if status is None:
        return []
    replicated, _ = job_modes(service["Spec"]["Mode"])
    lines = _field(" Completions", (replicated or {}).get("TotalCompletions"))
    lines += _field(" Max Concurrent", (replicated or {}).get("MaxConcurrent"))
    lines += ["JobStatus:", f"{' Iteration:':<19} {status['JobIteration']['Index']}"]
    lines += _field(" Last run", ago(status["LastExecution"]) or "never")
    lines += _field(" Next run", status.get("NextExecution"))
    skipped = status.get("Skipped")
    if skipped:
        lines += _field(" Skipped", f"{skipped['Runs']}, last {ago(skipped['Last'])}: {skipped['Reason']}")
    return lines


def _field(name: str, value: Any) -> list[str]:
    return [] if value in (None, "", [], {}) else [f"{name + ':':<19} {value}"]


def _mapping(name: str, values: dict[str, str] | None) -> list[str]:
    if not values:
        return []
    indent = " " * (len(name) - len(name.lstrip()) + 1)
    return [f"{name}:", *(f"{indent}{key}={value}" for key, value in values.items())]


def _placement(placement: Json) -> list[str]:
    lines = _field(" Constraints", ", ".join(placement.get("Constraints") or []))
    spreads = [pref.get("Spread", {}).get("SpreadDescriptor") for pref in placement.get("Preferences") or []]
    lines += _field(" Preferences", ", ".join(f"spread={descriptor}" for descriptor in spreads))
    lines += _field(" Max per node", placement.get("MaxReplicas"))
    return ["Placement:", *lines] if lines else []


def _rollout(name: str, config: Json | None) -> list[str]:
    if not config:
        return []
    return [
        f"{name}:",
        *_field(" Parallelism", config.get("Parallelism")),
        *_field(" Delay", _seconds(config.get("Delay"))),
        *_field(" On failure", config.get("FailureAction")),
        *_field(" Monitoring", _seconds(config.get("Monitor"))),
        *_field(" Max failure ratio", config.get("MaxFailureRatio")),
        *_field(" Order", config.get("Order")),
    ]


def _container(container: Json) -> list[str]:
    lines = ["ContainerSpec:", *_field(" Image", container.get("Image"))]
    for name, key in (("Command", "Command"), ("Args", "Args"), ("Env", "Env"), ("Groups", "Groups")):
        lines += _field(f" {name}", " ".join(container.get(key) or []))
    lines += _field(" Dir", container.get("Dir")) + _field(" User", container.get("User"))
    lines += _field(" Hostname", container.get("Hostname")) + _field(" Init", container.get("Init"))
    run, labels = split_labels(container.get("Labels"))
    lines += _mapping(" Labels", labels) + _mapping(" Sysctls", container.get("Sysctls"))
    lines += _mapping(" Run options", run)
    for mount in container.get("Mounts") or []:
        mode = ", read only" if mount.get("ReadOnly") else ""
        lines += _field(" Mount", f"{mount.get('Source', '')} -> {mount['Target']} ({mount['Type']}{mode})")
    health = container.get("Healthcheck") or {}
    lines += _field(" Healthcheck", " ".join(health.get("Test") or []))
    return lines


def _resources(resources: Json) -> list[str]:
    lines = []
    for side in ("Reservations", "Limits"):
        values = resources.get(side) or {}
        cpus, memory = values.get("NanoCPUs"), values.get("MemoryBytes")
        found = _field("  CPU", f"{cpus / 1e9:g}" if cpus else "")
        found += _field("  Memory", size_words(memory) if memory else "") + _field("  PIDs", values.get("Pids"))
        lines += [f" {side}:", *found] if found else []
    return ["Resources:", *lines] if lines else []


def _seconds(nanoseconds: int | None) -> str:
    return f"{nanoseconds / 1e9:g}s" if nanoseconds else ""
