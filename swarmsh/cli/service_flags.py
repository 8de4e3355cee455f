"""The flags of `service create` and `service update`: names, forms and help of the docker CLI.

A flag that was not given is None (or an empty tuple), so that an update changes only what was named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from swarmsh.cli.run_flags import entry_type, help_text, is_switch, scalar_type
from swarmsh.cli.values import (
    BYTES,
    CONFIG,
    CPUS,
    CREDENTIAL_SPEC,
    DNS_SEARCH,
    DURATION,
    ENV,
    EXTRA_HOST,
    GENERIC_RESOURCE,
    IP,
    LABEL,
    LIST,
    MOUNT,
    NETWORK,
    PORT,
    POSITIVE_DURATION,
    PREFERENCE,
    RATIO,
    SECRET,
    ULIMIT,
    UNSIGNED,
    WORDS,
    ParamType,
    Value,
)
from swarmsh.core.run_options import RUN_OPTIONS, RunOption

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

TEXT = Value("string", str)


def one(names: str, kind: ParamType, text: str, default: str = "") -> Decorator:
    """A flag that takes one value; `default` is what the server takes when it is not given."""
    shown = f"{text} (default {default})" if default else text
    return click.option(*names.split(), type=kind, default=None, help=shown)


def many(names: str, kind: ParamType, text: str) -> Decorator:
    """A flag that may be repeated."""
    return click.option(*names.split(), type=kind, multiple=True, help=text)


def switch(names: str, text: str) -> Decorator:
    return click.option(*names.split(), is_flag=True, default=None, help=text)


def apply(decorators: Sequence[Decorator]) -> Decorator:
    """All of them, shown in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _rollout(kind: str, noun: str, actions: str, defaults: bool) -> list[Decorator]:
    def d(value: str) -> str:
        return value if defaults else ""

    return [
        one(f"--{kind}-delay", DURATION, f"Delay between task {noun}s (ns|us|ms|s|m|h)", d("0s")),
        one(f"--{kind}-failure-action", TEXT, f"Action on {noun} failure ({actions})", d("pause")),
        one(f"--{kind}-max-failure-ratio", RATIO, f"Failure rate to tolerate during the {noun}", d("0")),
        one(f"--{kind}-monitor", DURATION, f"Time after each task's {noun} to watch for failure", d("5s")),
        one(f"--{kind}-order", TEXT, "Order: start-first or stop-first", d("stop-first")),
        one(f"--{kind}-parallelism", UNSIGNED, "Tasks changed at the same time (0: all at once)", d("1")),
    ]


def _common(defaults: bool) -> list[Decorator]:
    def d(value: str) -> str:
        return value if defaults else ""

    return [
        many("--cap-add", LIST, "Add Linux capabilities"),
        many("--cap-drop", LIST, "Drop Linux capabilities"),
        one("--credential-spec", CREDENTIAL_SPEC, "Credential spec for managed service account (Windows only)"),
        switch("-d --detach", "Return at once instead of waiting for the service to converge"),
        one("--endpoint-mode", TEXT, "Endpoint mode: vip or dnsrr", d("vip")),
        one("--entrypoint", WORDS, "Overwrite the default ENTRYPOINT of the image"),
        one("--health-cmd", TEXT, "Command to run to check health"),
        one("--health-interval", POSITIVE_DURATION, "Time between running the check (ms|s|m|h)"),
        one("--health-retries", UNSIGNED, "Consecutive failures needed to report unhealthy"),
        one("--health-start-interval", POSITIVE_DURATION, "Time between checks during the start period"),
        one("--health-start-period", POSITIVE_DURATION, "Time to initialise before failures count"),
        one("--health-timeout", POSITIVE_DURATION, "Maximum time to allow one check to run"),
        one("--hostname", TEXT, "Container hostname"),
        switch("--init", "Use an init inside each container to forward signals and reap processes"),
        one("--isolation", TEXT, "Service container isolation mode (Linux: default)"),
        one("--limit-cpu", CPUS, "Limit CPUs"),
        one("--limit-memory", BYTES, "Limit memory"),
        one("--limit-pids", UNSIGNED, "Limit number of processes (default 0 = unlimited)"),
        one("--log-driver", TEXT, "Logging driver for service"),
        many("--log-opt", ENV, "Logging driver options"),
        one(
            "--max-concurrent",
            UNSIGNED,
            "Number of job tasks to run concurrently",
            "as many as --replicas" if defaults else "",
        ),
        switch("--no-healthcheck", "Disable any container-specified HEALTHCHECK"),
        switch("--no-resolve-image", "Do not ask the registry for the image's digest and platforms"),
        one("--oom-score-adj", click.IntRange(-1000, 1000), "Tune the host's OOM preferences"),
        switch("-q --quiet", "Suppress progress output"),
        switch("--read-only", "Mount the container's root filesystem as read only"),
        one("--replicas", UNSIGNED, "Number of tasks", d("1")),
        one("--replicas-max-per-node", UNSIGNED, "Maximum number of tasks per node (default 0 = unlimited)"),
        one("--reserve-cpu", CPUS, "Reserve CPUs"),
        one("--reserve-memory", BYTES, "Reserve memory"),
        one("--restart-condition", TEXT, "Restart when: none, on-failure or any", d("any")),
        one("--restart-delay", DURATION, "Delay between restart attempts (ns|us|ms|s|m|h)", d("5s")),
        one("--restart-max-attempts", UNSIGNED, "Maximum number of restarts before giving up (0: no limit)"),
        one("--restart-window", DURATION, "Window used to evaluate the restart policy"),
        *_rollout("rollback", "rollback", "pause or continue", defaults),
        one("--schedule", TEXT, "When a job runs: a cron expression ('0 3 * * *') or @daily; not Docker's"),
        one("--schedule-zone", TEXT, "Time zone of the schedule; not Docker's", d("UTC")),
        one("--stop-grace-period", DURATION, "Time to wait before killing a container", d("10s")),
        one("--stop-signal", TEXT, "Signal to stop the container"),
        switch("-t --tty", "Allocate a pseudo-TTY"),
        *_rollout("update", "update", "pause, continue or rollback", defaults),
        one("-u --user", TEXT, "Username or UID (format: <name|uid>[:<group|gid>])"),
        switch("--with-registry-auth", "Send registry authentication details to the nodes"),
        one("-w --workdir", TEXT, "Working directory inside the container"),
    ]


def _run_scalars(*, update: bool) -> list[Decorator]:
    """Run options of one value; those of an update take an empty one, which takes the option away."""
    return [
        switch(f"--{option.name}", help_text(option))
        if is_switch(option)
        else one(f"--{option.name}", scalar_type(option, may_be_empty=update), help_text(option))
        for option in RUN_OPTIONS
        if not option.is_list
    ]


CREATE = apply(
    [
        one("--name", TEXT, "Service name (random if not given)"),
        one("--mode", TEXT, "Service mode: replicated, global, replicated-job or global-job", "replicated"),
        *_common(defaults=True),
        many("--config", CONFIG, "Configs for the service: NAME, or source=,target=,uid=,gid=,mode="),
        many("--constraint", LIST, "Placement constraints"),
        many("--container-label", LABEL, "Container labels"),
        many("--dns", IP, "Set custom DNS servers"),
        many("--dns-option", LIST, "Set DNS options"),
        many("--dns-search", DNS_SEARCH, "Set custom DNS search domains"),
        many("-e --env", ENV, "Set environment variables"),
        many("--env-file", LIST, "Read in a file of environment variables"),
        many("--generic-resource", GENERIC_RESOURCE, "User defined resources (KIND=NUMBER)"),
        many("--group", LIST, "Set supplementary user groups for the container"),
        many("--host", EXTRA_HOST, "Set custom host-to-IP mappings (host:ip)"),
        many("-l --label", LABEL, "Service labels"),
        many("--mount", MOUNT, "Attach a filesystem mount to the service"),
        many("--network", NETWORK, "Network attachments: overlays, or host, bridge or none"),
        many("--placement-pref", PREFERENCE, "Add a placement preference (spread=KEY)"),
        many("-p --publish", PORT, "Publish a port as a node port"),
        many("--secret", SECRET, "Secrets for the service: NAME, or source=,target=,uid=,gid=,mode="),
        many("--sysctl", LABEL, "Sysctl options"),
        many("--ulimit", ULIMIT, "Ulimit options (NAME=SOFT[:HARD])"),
        *_run_scalars(update=False),
        *(many(f"--{x.name}", entry_type(x), help_text(x)) for x in RUN_OPTIONS if x.is_list),
    ]
)


def _pair(name: str, kind: ParamType, what: str, key: str, removal: ParamType = LIST) -> list[Decorator]:
    return [
        many(f"--{name}-add", kind, f"Add or update {what}"),
        many(f"--{name}-rm", removal, f"Remove {what}{key}"),
    ]


def _run_pair(option: RunOption) -> list[Decorator]:
    return [
        many(f"--{option.name}-add", entry_type(option), f"Add or update: {help_text(option)}"),
        many(f"--{option.name}-rm", LIST, f"Remove one of --{option.name}-add, {option.key}; not Docker's"),
    ]


UPDATE = apply(
    [
        one("--args", WORDS, "Service command args"),
        *_common(defaults=False),
        *_pair("config", CONFIG, "a config", " by its name"),
        *_pair("constraint", LIST, "a placement constraint", ""),
        *_pair("container-label", LABEL, "a container label", " by its key"),
        *_pair("dns", IP, "a custom DNS server", ""),
        *_pair("dns-option", LIST, "a DNS option", ""),
        *_pair("dns-search", DNS_SEARCH, "a custom DNS search domain", ""),
        *_pair("env", ENV, "an environment variable", " by its name"),
        switch("--force", "Force update even if no changes require it"),
        *_pair("generic-resource", GENERIC_RESOURCE, "a generic resource", " by its kind"),
        *_pair("group", LIST, "a supplementary user group", ""),
        *_pair("host", EXTRA_HOST, "a custom host-to-IP mapping", " (host or host:ip)"),
        one("--image", TEXT, "Service image tag"),
        *_pair("label", LABEL, "a service label", " by its key"),
        *_pair("mount", MOUNT, "a mount", " by its target path"),
        *_pair("network", NETWORK, "a network", ""),
        *_pair("placement-pref", PREFERENCE, "a placement preference", "", PREFERENCE),
        *_pair("publish", PORT, "a published port", " by its target port", PORT),
        switch("--rollback", "Roll back to the previous specification"),
        *_pair("secret", SECRET, "a secret", " by its name"),
        *_pair("sysctl", LABEL, "a sysctl option", " by its key"),
        *_pair("ulimit", ULIMIT, "a ulimit option", " by its name"),
        *_run_scalars(update=True),
        *(pair for x in RUN_OPTIONS if x.is_list for pair in _run_pair(x)),
    ]
)
