"""`swarmsh.run.*`: parsing, refusals, the way back into labels, and the Engine's JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmsh.core.accept import accept_service
from swarmsh.core.container import container_config
from swarmsh.core.difference import template_changed
from swarmsh.core.engine_api import newest_field
from swarmsh.core.run_devices import DeviceRequest
from swarmsh.core.run_options import (
    RUN_OPTIONS,
    RunOption,
    RunOptions,
    host_config_of,
    newest_option,
    parse_run_options,
    run_labels,
)
from swarmsh.core.spec_diff import diff_specs
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import ServiceSpec
from tests.unit.core import samples

PAGE = Path(__file__).parents[3] / "docs" / "run-options.md"
GPU = ("gpu",)
PROFILE = '{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[]}'


def parsed(**labels: str) -> RunOptions:
    return parse_run_options({f"swarmsh.run.{key.replace('_', '-')}": text for key, text in labels.items()})


@pytest.mark.parametrize(
    ("labels", "options", "host_config"),
    [
        ({"privileged": "true"}, {"privileged": True}, {"Privileged": True}),
        ({"privileged": "false"}, {}, {}),
        (
            {"device": "/dev/fuse, /dev/sda:/dev/xvda:r,/dev/tun:rw"},
            {"devices": ("/dev/fuse", "/dev/sda:/dev/xvda:r", "/dev/tun:rw")},
            {
                "Devices": [
                    {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
                    {"PathOnHost": "/dev/sda", "PathInContainer": "/dev/xvda", "CgroupPermissions": "r"},
                    {"PathOnHost": "/dev/tun", "PathInContainer": "/dev/tun", "CgroupPermissions": "rw"},
                ]
            },
        ),
        (
            {"device": "nvidia.com/gpu=all"},
            {"devices": ("nvidia.com/gpu=all",)},
            {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]},
        ),
        (
            {"device_cgroup_rule": "c 42:* rwm"},
            {"device_cgroup_rules": ("c 42:* rwm",)},
            {"DeviceCgroupRules": ["c 42:* rwm"]},
        ),
        (
            {"gpus": "all"},
            {"gpus": (DeviceRequest(count=-1, capabilities=GPU),)},
            {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]},
        ),
        (
            {"gpus": '"device=0,2","capabilities=compute,utility",driver=nvidia'},
            {
                "gpus": (
                    DeviceRequest(
                        driver="nvidia", device_ids=("0", "2"), capabilities=("compute", "utility", "gpu")
                    ),
                )
            },
            {
                "DeviceRequests": [
                    {
                        "Driver": "nvidia",
                        "DeviceIDs": ["0", "2"],
                        "Capabilities": [["compute", "utility", "gpu"]],
                    }
                ]
            },
        ),
        (
            {"device_request": "2,capabilities=tpu;driver=x,options=a=b"},
            {
                "device_requests": (
                    DeviceRequest(count=2, capabilities=("tpu",)),
                    DeviceRequest(driver="x", count=1, options=(("a", "b"),)),
                )
            },
            {
                "DeviceRequests": [
                    {"Count": 2, "Capabilities": [["tpu"]]},
                    {"Driver": "x", "Count": 1, "Options": {"a": "b"}},
                ]
            },
        ),
        ({"shm_size": "64m"}, {"shm_size": 64 << 20}, {"ShmSize": 64 << 20}),
        (
            {"security_opt": "apparmor=unconfined,no-new-privileges,systempaths=unconfined"},
            {"security_opt": ("apparmor=unconfined", "no-new-privileges", "systempaths=unconfined")},
            {
                "SecurityOpt": ["apparmor=unconfined", "no-new-privileges"],
                "MaskedPaths": [],
                "ReadonlyPaths": [],
            },
        ),
        (
            {"security_opt": json.dumps([f"seccomp={PROFILE}", "label:disable"])},
            {"security_opt": (f"seccomp={PROFILE}", "label:disable")},
            {"SecurityOpt": [f"seccomp={PROFILE}", "label:disable"]},
        ),
        ({"ipc": "shareable"}, {"ipc": "shareable"}, {"IpcMode": "shareable"}),
        ({"pid": "host"}, {"pid": "host"}, {"PidMode": "host"}),
        ({"uts": "host"}, {"uts": "host"}, {"UTSMode": "host"}),
        ({"userns": "host"}, {"userns": "host"}, {"UsernsMode": "host"}),
        ({"cgroupns": "private"}, {"cgroupns": "private"}, {"CgroupnsMode": "private"}),
        ({"cgroup_parent": "a.slice"}, {"cgroup_parent": "a.slice"}, {"CgroupParent": "a.slice"}),
        ({"cpuset_cpus": "0-2,5"}, {"cpuset_cpus": "0-2,5"}, {"CpusetCpus": "0-2,5"}),
        ({"cpuset_mems": "0"}, {"cpuset_mems": "0"}, {"CpusetMems": "0"}),
        ({"cpu_shares": "512"}, {"cpu_shares": 512}, {"CpuShares": 512}),
        ({"cpu_period": "50000"}, {"cpu_period": 50000}, {"CpuPeriod": 50000}),
        ({"cpu_quota": "25000"}, {"cpu_quota": 25000}, {"CpuQuota": 25000}),
        ({"cpu_rt_period": "1000"}, {"cpu_rt_period": 1000}, {"CpuRealtimePeriod": 1000}),
        ({"cpu_rt_runtime": "950"}, {"cpu_rt_runtime": 950}, {"CpuRealtimeRuntime": 950}),
        ({"memory_reservation": "1g"}, {"memory_reservation": 1 << 30}, {"MemoryReservation": 1 << 30}),
        ({"oom_kill_disable": "true"}, {"oom_kill_disable": True}, {"OomKillDisable": True}),
        ({"blkio_weight": "300"}, {"blkio_weight": 300}, {"BlkioWeight": 300}),
        (
            {"blkio_weight_device": "/dev/sda:200"},
            {"blkio_weight_devices": ("/dev/sda:200",)},
            {"BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 200}]},
        ),
        (
            {"device_read_bps": "/dev/sda:1mb"},
            {"device_read_bps": ("/dev/sda:1mb",)},
            {"BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}]},
        ),
        (
            {"device_write_bps": "/dev/sda:1k"},
            {"device_write_bps": ("/dev/sda:1k",)},
            {"BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 1024}]},
        ),
        (
            {"device_read_iops": "/dev/sda:10"},
            {"device_read_iops": ("/dev/sda:10",)},
            {"BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 10}]},
        ),
        (
            {"device_write_iops": "/dev/sda:10"},
            {"device_write_iops": ("/dev/sda:10",)},
            {"BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 10}]},
        ),
        ({"storage_opt": "size=10G"}, {"storage_opt": ("size=10G",)}, {"StorageOpt": {"size": "10G"}}),
        ({"annotation": "a=b,c="}, {"annotations": ("a=b", "c=")}, {"Annotations": {"a": "b", "c": ""}}),
        ({"runtime": "runsc"}, {"runtime": "runsc"}, {"Runtime": "runsc"}),
        ({"domainname": "example.com"}, {"domainname": "example.com"}, {}),
    ],
)
def test_an_option_is_read_and_said_to_the_engine(
    labels: dict[str, str], options: dict[str, Any], host_config: dict[str, Any]
) -> None:
    found = parsed(**labels)
    assert found == RunOptions(**options)
    assert host_config_of(found) == host_config
    assert parse_run_options(run_labels(found)) == found


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"priviledged": "true"}, "priviledged is not known. Did you mean swarmsh.run.privileged?"),
        ({"mac-address": "1"}, "swarmsh.run.mac-address is not known. The addresses of tasks"),
        ({"group-add": "audio"}, "Services have it: --group"),
        ({"privileged": "yes"}, "swarmsh.run.privileged: 'yes' is neither true nor false"),
        ({"device": "fuse"}, "'fuse' names no absolute path"),
        ({"device": "/dev/a:/dev/b:x"}, "'x' is no mode"),
        ({"device": "/dev/a:/dev/b:rr"}, "'rr' is no mode"),
        ({"device": "/dev/a:b:c:d"}, "is not SOURCE[:TARGET][:rwm]"),
        ({"device": "/dev/a,/dev/a:r"}, "/dev/a is there twice"),
        ({"device": ""}, "'' names no absolute path"),
        ({"device": "[1]"}, "not a JSON list of texts"),
        ({"device-cgroup-rule": "x 1:1 r"}, "is not of the form 'c 42:* rwm'"),
        ({"gpus": ""}, "swarmsh.run.gpus: it says nothing"),
        ({"gpus": "many"}, "count many is neither all nor a number"),
        ({"gpus": "2,device=1"}, "count and device exclude each other"),
        ({"gpus": "device=0,device=1"}, "device is there twice"),
        ({"gpus": "brand=x"}, "'brand' is not known"),
        ({"gpus": '"device=0'}, "is not well quoted"),
        ({"device-request": "2"}, "neither a driver nor capabilities"),
        ({"shm-size": "64q"}, "'64q' is not a size. Write it as 64m"),
        ({"shm-size": "0"}, "'0' is less than 1 bytes"),
        ({"shm-size": "99999999p"}, "too large"),
        ({"security-opt": "secomp=unconfined"}, "'secomp=unconfined' is not known. Did you mean seccomp?"),
        ({"security-opt": "seccomp=profile.json"}, "the seccomp profile is not JSON. A file is on no node"),
        ({"security-opt": "apparmor"}, "security option apparmor has no value"),
        ({"security-opt": "no-new-privileges=1"}, "'1' is neither true nor false"),
        ({"security-opt": "systempaths=none"}, "only systempaths=unconfined"),
        ({"ipc": "container:x"}, "names a container of one node"),
        ({"ipc": "own"}, "'own' is not none or private or shareable or host"),
        ({"pid": "private"}, "'private' is not host"),
        ({"cpuset-cpus": "a"}, "'a' is not like 0-3,5"),
        ({"cpu-shares": "1"}, "'1' is not a number of 2 or more"),
        ({"cpu-period": "10"}, "'10' is not a number from 1000 to 1000000"),
        ({"memory-reservation": "1m"}, "'1m' is less than"),
        ({"blkio-weight": "5"}, "'5' is not a number from 10 to 1000"),
        ({"device-read-bps": "/dev/sda"}, "'/dev/sda' is not PATH:VALUE"),
        ({"device-read-bps": "sda:1m"}, "'sda' is no absolute path"),
        ({"device-read-iops": "/dev/sda:x"}, "'x' is not a number"),
        ({"storage-opt": "size"}, "'size' is not KEY=VALUE"),
        ({"runtime": ""}, "'' is not a name"),
        ({"domainname": "a b"}, "'a b' is not a domain name"),
    ],
)
def test_a_wrong_option_is_refused_by_name(labels: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_run_options({f"swarmsh.run.{key}": text for key, text in labels.items()})
    assert message in str(refused.value)
    assert "swarmsh.run." in str(refused.value)


def test_every_option_has_a_field_of_its_own() -> None:
    assert [option.attribute for option in RUN_OPTIONS] == [field.name for field in fields(RunOptions)]


def test_other_labels_are_passed_over() -> None:
    assert parse_run_options({"a": "b", "com.example.run": "c"}) == RunOptions()
    assert run_labels(RunOptions()) == {}


def test_new_fields_ask_for_new_engines() -> None:
    assert newest_option(RunOptions(privileged=True)) is None
    assert newest_option(RunOptions(annotations=("a=b",))) == ("annotation", (1, 43))
    assert newest_option(RunOptions(annotations=("a=b",), devices=("x.y/z=1",))) == ("device of CDI", (1, 44))


# --- as part of a service -----------------------------------------------------------------------------------
def labelled(**template: Any) -> ServiceSpec:
    """A service whose container has the labels `run` (without their prefix), beside fields of its template."""
    labels = {f"swarmsh.run.{key}": text for key, text in template.pop("run").items()}
    container = {"Image": "web:1", "Labels": labels} | template.pop("ContainerSpec", {})
    return samples.service_spec(TaskTemplate={"ContainerSpec": container, **template})


REFUSED = [
    (labelled(run={"devce": "/dev/a"}), "swarmsh.run.devce is not known. Did you mean swarmsh.run.device?"),
    (labelled(run={"uts": "host"}, ContainerSpec={"Hostname": "h"}), "hostname and the UTS mode"),
    (labelled(run={"uts": "host", "domainname": "d"}), "domainname and the UTS mode"),
    (
        labelled(run={"cpu-quota": "5000"}, Resources={"Limits": {"NanoCPUs": 10**9}}),
        "Nano CPUs and CPU Quota cannot both be set",
    ),
    (
        labelled(run={"memory-reservation": "1g"}, Resources={"Limits": {"MemoryBytes": 1 << 29}}),
        "can not be less than memory reservation",
    ),
    (
        labelled(
            run={"security-opt": "seccomp=unconfined"},
            ContainerSpec={"Privileges": {"Seccomp": {"Mode": "unconfined"}}},
        ),
        "seccomp is said twice",
    ),
    (
        samples.service_spec(Labels={"swarmsh.run.device": "/dev/a"}),
        "It goes on its containers: --container-label",
    ),
]


@pytest.mark.parametrize(("spec", "message"), REFUSED)
def test_a_service_with_options_that_cannot_be_is_refused(spec: ServiceSpec, message: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        accept_service(spec)
    assert message in str(refused.value)


def test_a_task_is_created_with_its_options_beside_what_its_spec_says() -> None:
    spec = labelled(
        run={"privileged": "true", "security-opt": "label=disable", "domainname": "d.example", "cpu-shares": "9"},
        ContainerSpec={"Privileges": {"NoNewPrivileges": True}},
        Resources={"Limits": {"MemoryBytes": 1 << 30}},
    )
    task = samples.task(1, spec=accept_service(spec).task_template, on=samples.node(1))
    config = container_config(task, samples.node(1), "c1")
    assert config["Domainname"] == "d.example"
    assert config["HostConfig"] == {
        "RestartPolicy": {"Name": "no"},
        "Memory": 1 << 30,
        "Privileged": True,
        "SecurityOpt": ["no-new-privileges=true", "label=disable"],
        "CpuShares": 9,
    }


def test_a_changed_option_replaces_tasks_and_is_shown_field_by_field() -> None:
    before, after = labelled(run={"shm-size": "64m"}), labelled(run={"shm-size": "128m"})
    assert template_changed(before, after)
    assert [(c.field, c.before, c.after) for c in diff_specs(before, after)] == [
        ("TaskTemplate.ContainerSpec.Labels[swarmsh.run.shm-size]", "64m", "128m")
    ]


def test_a_node_with_an_older_engine_is_ruled_out_by_name() -> None:
    needed = newest_field(labelled(run={"annotation": "a=b"}).task_template)
    assert needed is not None
    assert (needed.name, needed.since) == ("annotation", (1, 43))
    assert newest_field(labelled(run={"privileged": "true"}).task_template) is None


def test_the_page_for_users_has_the_same_table() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `swarmsh.run.")]
    assert rows == [f"| `{x.label}` | {x.form} | {x.meaning} |" for x in RUN_OPTIONS]


VALUES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="/:,;=[]\"'{}rwm0123456789.-agx ", max_size=30),
    st.sampled_from(["9" * 400, "9" * 400 + "p", "[" * 100_000, "seccomp=" + "[" * 100_000, "-1", "١", "1e5"]),
)


@settings(max_examples=300, deadline=None)
@given(option=st.sampled_from(RUN_OPTIONS), text=VALUES)
def test_garbage_is_refused_by_name_or_means_something(option: RunOption, text: str) -> None:
    refused = ""
    try:
        found = parse_run_options({option.label: text})
    except InvalidSpec as e:
        refused = e.message
    if refused:
        assert refused.startswith(f"container label {option.label}: ")
        assert len(refused) < 500
    else:
        json.dumps(host_config_of(found))
        assert parse_run_options(run_labels(found)) == found
