"""Run options beside the rest of a task template: what the Engine refuses to have together, with its words."""

from __future__ import annotations

from swarmsh.core.run_options import RunOptions, parse_run_options
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import ContainerSpec, TaskSpec


def check_run_options(task: TaskSpec) -> None:
    """Refuse unknown options, bad values and contradictions (moby `daemon/daemon_unix.go`). Raises InvalidSpec."""
    container = task.container_spec
    if container is None:
        return
    options = parse_run_options(container.labels)
    _check_limits(options, task)
    if options.uts == "host" and container.hostname:
        raise InvalidSpec("conflicting options: hostname and the UTS mode", hint=_leave("uts"))
    if options.uts == "host" and options.domainname:
        raise InvalidSpec("conflicting options: domainname and the UTS mode", hint=_leave("uts"))
    _check_confinement(options, container)


def _check_limits(options: RunOptions, task: TaskSpec) -> None:
    limits = task.resources.limits if task.resources is not None else None
    if limits is None:
        return
    for name, value in (("CPU Period", options.cpu_period), ("CPU Quota", options.cpu_quota)):
        if limits.nano_cpus and value:
            hint = "Say it with --limit-cpu, or with cpu-period and cpu-quota"
            raise InvalidSpec(f"Conflicting options: Nano CPUs and {name} cannot both be set.", hint=hint)
    if limits.memory_bytes and options.memory_reservation > limits.memory_bytes:
        raise InvalidSpec(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
            hint="swarmsh.run.memory-reservation must not be above the memory limit",
        )


def _check_confinement(options: RunOptions, container: ContainerSpec) -> None:
    """Docker's clients can say some of it in the spec itself; two profiles would be one too many."""
    seccomp = [option for option in options.security_opt if option.startswith("seccomp")]
    if seccomp and container.privileges is not None and container.privileges.seccomp is not None:
        raise InvalidSpec("seccomp is said twice: in Privileges and in swarmsh.run.security-opt")


def _leave(name: str) -> str:
    return f"Leave container label swarmsh.run.{name} away, or the other"
