"""A project as a stack of Docker's specs: what is made, and what is refused or warned about."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmsh.compose.convert import convert
from swarmsh.compose.errors import ComposeError
from swarmsh.model.specs import NetworkAttachment, RestartPolicy, ServiceMode
from swarmsh.model.stacks import Condition, Dependency, StackSpec
from swarmsh.model.wire import from_wire, to_wire
from tests.unit.compose.converting import container, converted, loaded, service

EVERYTHING = (Path(__file__).parent / "everything.yml").read_text()


def refusal(body, rest="", **kwargs):
    with pytest.raises(ComposeError) as refused:
        service(body, rest, **kwargs)
    error = refused.value
    assert error.position is not None and error.position.file == "/p/compose.yml"
    return str(error)


# --- names --------------------------------------------------------------------------------------------------
def test_objects_are_named_after_the_stack_and_labelled_with_it():
    stack, _ = converted("""
        services: {web: {image: docker.io/library/web, labels: {a: b}, deploy: {labels: {c: d}}, secrets: [s]}}
        secrets: {s: {file: secret.txt}}
        """)
    web = stack.services["web"]
    assert (stack.name, web.name) == ("shop", "shop_web")
    assert web.labels == {
        "c": "d",
        "com.docker.stack.namespace": "shop",
        "com.docker.stack.image": "docker.io/library/web",
    }
    assert web.task_template.container_spec.image == "web:latest"
    assert web.task_template.container_spec.labels == {"a": "b", "com.docker.stack.namespace": "shop"}
    assert stack.networks["default"].spec.name == "shop_default"
    secret = stack.secrets["s"]
    assert (secret.name, secret.data, secret.labels) == (
        "shop_s",
        b"hidden",
        {"com.docker.stack.namespace": "shop"},
    )
    assert web.task_template.container_spec.secrets[0].secret_name == "shop_s"


def test_the_short_name_is_an_alias_in_the_stacks_own_networks_alone():
    web, _ = service(
        "networks: {own: , named: , outside: , said: {aliases: [web]}}",
        """
        networks:
          own: {}
          named: {name: b-name}
          outside: {external: true, name: c-outside}
          said: {external: true, name: d-said}
        """,
    )
    assert [(n.target, n.aliases) for n in web.task_template.networks] == [
        ("b-name", ("web",)),
        ("c-outside", ()),
        ("d-said", ("web",)),
        ("shop_own", ("web",)),
    ]


@pytest.mark.parametrize(("mode", "target"), [("host", "host"), ("none", "none"), ("bridge", "bridge")])
def test_network_modes_of_the_nodes_engine(mode, target):
    web, _ = service(f"network_mode: {mode}")
    assert web.task_template.networks == (NetworkAttachment(target=target),)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("network_mode: 'service:db'", "shares the network of one container"),
        ("network_mode: 'container:x'", "shares the network of one container"),
        ("network_mode: wlan", "there is no network mode 'wlan'"),
        ("network_mode: host\nnetworks: [default]", "excludes networks"),
    ],
)
def test_network_modes_that_a_task_cannot_have(body, words):
    assert words in refusal(body)


def test_a_network_of_another_driver_is_refused_and_an_unused_one_named():
    assert "driver bridge are each node's own" in refusal("", "networks: {default: {driver: bridge}}")
    stack, notices = converted("services: {web: {image: x}}\nnetworks: {spare: {}}\nvolumes: {spare: {}}")
    assert set(stack.networks) == {"default"}
    assert "not made" in notices["networks.spare"] and "not made" in notices["volumes.spare"]


# --- ports --------------------------------------------------------------------------------------------------
def test_one_host_address_of_all_ports_is_the_services_label():
    web, _ = service("ports: ['10.0.0.1:80:80', {target: 81, published: 81, host_ip: 10.0.0.1}]")
    assert web.labels["swarmsh.publish.bind"] == "10.0.0.1"
    web, _ = service("ports: ['0.0.0.0:80:80']")
    assert "swarmsh.publish.bind" not in web.labels


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("ports: ['10.0.0.1:80:80', '81:81']", "all published ports of a service are at the same address"),
        ("ports: ['10.0.0.1:80:80', '10.0.0.2:81:81']", "are at the same address"),
        ("ports: ['[::1]:80:80']", "is no IPv4 address"),
        (
            "ports: ['10.0.0.1:80:80']\ndeploy: {labels: {swarmsh.publish.bind: 10.0.0.2}}",
            "differs from label swarmsh.publish.bind",
        ),
    ],
)
def test_addresses_that_cannot_be_are_refused_rather_than_widened(body, words):
    assert words in refusal(body)


def test_a_database_port_that_everybody_reaches_is_warned_about():
    _, notices = service("ports: ['5432:5432']")
    assert "PostgreSQL, is published on all addresses" in notices["services.web.ports.0"]
    for quiet in ("ports: ['10.0.0.1:5432:5432']", "ports: ['5432:80']", "ports: ['3306:3306/udp']"):
        assert service(quiet)[1] == {}
    assert service("ports: ['5432:5432']\ndeploy: {labels: {swarmsh.publish.bind: 10.0.0.1}}")[1] == {}


def test_ports_are_in_the_order_of_their_published_numbers():
    web, _ = service("ports: ['9000:1', '80', '8000-8001:5-6']")
    assert [(p.published_port, p.target_port) for p in web.endpoint_spec.ports] == [
        (0, 80),
        (8000, 5),
        (8001, 6),
        (9000, 1),
    ]


# --- mounts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["./site", "../site", "~/site"])
def test_a_relative_bind_is_refused_with_the_reason(source):
    said = refusal(f"volumes: ['{source}:/site']")
    assert said.startswith("/p/compose.yml:4:") and "services.web.volumes[0].source" in said
    assert "relative to this machine, and tasks run on nodes" in said


def test_tmpfs_is_honoured_with_its_options():
    mounts = container("tmpfs: ['/run/', '/tmp:size=64m,mode=1777,noexec,nosuid']").mounts
    assert [(m.type, m.target) for m in mounts] == [("tmpfs", "/run"), ("tmpfs", "/tmp")]
    assert mounts[0].tmpfs_options is None
    options = mounts[1].tmpfs_options
    assert (options.size_bytes, options.mode, options.options) == (64 << 20, 0o1777, (("noexec",),))
    _, notices = service("tmpfs: '/tmp:uid=5'")
    assert "option uid=5" in notices["services.web.tmpfs.0"]


def test_options_of_another_kind_of_mount_are_refused():
    said = refusal("volumes: [{type: bind, source: /a, target: /a, tmpfs: {size: 1m}}]")
    assert "tmpfs options are incompatible with type bind" in said
    assert "nodes run Linux" in refusal("volumes: [{type: npipe, source: /a, target: /a}]")


def test_warnings_name_file_line_and_key():
    project, read = loaded("services:\n  web:\n    image: x\n    container_name: one\n")
    convert(project, "shop", read=read)
    (said,) = project.noted()
    assert said.startswith("/p/compose.yml:4:5: services.web.container_name: containers are named after tasks")


# --- what tasks are -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("'no'", None),
        ("always", RestartPolicy(condition="any")),
        ("unless-stopped", RestartPolicy(condition="any")),
        ("on-failure", RestartPolicy(condition="on-failure")),
        ("on-failure:3", RestartPolicy(condition="on-failure", max_attempts=3)),
    ],
)
def test_restart_is_what_holds_without_a_restart_policy(text, policy):
    assert service(f"restart: {text}")[0].task_template.restart_policy == policy
    both, _ = service(f"restart: {text}\ndeploy: {{restart_policy: {{condition: none}}}}")
    assert both.task_template.restart_policy == RestartPolicy(condition="none")


def test_older_names_of_limits_and_what_they_contradict():
    resources = service("cpus: 0.5\nmem_limit: 64m\nmem_reservation: 32m\nmemswap_limit: 96m\npids_limit: 9")[
        0
    ].task_template.resources
    assert (resources.limits.nano_cpus, resources.limits.memory_bytes, resources.limits.pids) == (
        5 * 10**8,
        64 << 20,
        9,
    )
    assert resources.reservations.memory_bytes == 32 << 20
    assert resources.swap_bytes == 32 << 20
    same = "mem_limit: 64m\ndeploy: {resources: {limits: {memory: 65536k}}}"
    assert service(same)[0].task_template.resources.limits.memory_bytes == 64 << 20
    said = refusal("mem_limit: 64m\ndeploy: {resources: {limits: {memory: 1g}}}")
    assert "services.web.mem_limit: differs from deploy.resources.limits.memory" in said
    assert "needs a limit of memory" in refusal("memswap_limit: 1g")
    assert "less than the limit of memory" in refusal("mem_limit: 2g\nmemswap_limit: 1g")
    assert service("mem_limit: 1g\nmemswap_limit: -1")[0].task_template.resources.swap_bytes == -1


def test_modes_and_replicas():
    def mode(body) -> ServiceMode:
        return service(body)[0].mode

    assert mode("scale: 4").replicated.replicas == 4
    assert mode("deploy: {mode: global}").global_ is not None
    assert mode("deploy: {mode: replicated-job, replicas: 3}").replicated_job.total_completions == 3
    assert mode("deploy: {mode: global-job}").global_job is not None
    assert "replicas can only be used" in refusal("deploy: {mode: global, replicas: 3}")
    assert "scale: differs from deploy.replicas" in refusal("scale: 4\ndeploy: {replicas: 3}")


def test_an_image_is_needed_and_is_not_built():
    _, notices = service("build: .")
    assert "build and push" in notices["services.web.build"]
    with pytest.raises(ComposeError, match=r"services\.web\.build: images are not built here"):
        converted("services: {web: {build: .}}")
    with pytest.raises(ComposeError, match=r"services\.web: no image specified"):
        converted("services: {web: {command: x}}")
    with pytest.raises(ComposeError, match=r"services\.web\.image: 'WEB' is no image"):
        converted("services: {web: {image: WEB}}")


def test_a_health_check_is_off_or_has_a_test():
    assert container("healthcheck: {disable: true}").healthcheck.test == ("NONE",)
    assert "at the same time" in refusal("healthcheck: {disable: true, test: x}")


def test_dependencies_have_docker_composes_conditions():
    stack, _ = converted("""
        services:
          web:
            image: x
            depends_on:
              db: {condition: service_healthy, restart: true}
              setup: {condition: service_completed_successfully}
              cache: {condition: service_started, required: false}
          db: {image: x, depends_on: [cache]}
          setup: {image: x}
          cache: {image: x}
        """)
    assert stack.depends_on == {
        "web": {
            "db": Dependency(condition=Condition.HEALTHY, restart=True),
            "setup": Dependency(condition=Condition.COMPLETED),
            "cache": Dependency(condition=Condition.STARTED, required=False),
        },
        "db": {"cache": Dependency(condition=Condition.STARTED)},
    }


# --- secrets and configs ------------------------------------------------------------------------------------
def test_contents_come_from_files_variables_and_the_file_itself():
    stack, _ = converted("""
        services: {web: {image: x}}
        secrets: {a: {file: ./secret.txt}, b: {environment: PASSWORD}, c: {external: true, name: elsewhere}}
        configs: {d: {content: "listen ${SITE}"}, e: {environment: SITE, template_driver: golang}}
        """)
    assert [s.data for s in stack.secrets.values()] == [b"hidden", b"from outside", None]
    assert (stack.secrets["c"].name, stack.secrets["c"].external) == ("elsewhere", True)
    assert stack.configs["d"].data == b"listen of a variable"
    assert stack.configs["e"].templating.name == "golang"


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("{file: gone.txt}", "'/p/gone.txt' cannot be read: No such file or directory"),
        ("{environment: GONE}", "variable GONE is not set"),
    ],
)
def test_contents_that_are_not_there(declared, words):
    assert words in refusal("", f"secrets: {{s: {declared}}}")


def test_two_files_of_one_name_are_refused():
    rest = "secrets: {a: {file: secret.txt}, b: {file: secret.txt}}"
    said = refusal("secrets: [{source: a, target: x}, {source: b, target: x}]", rest)
    assert "services.web.secrets[1]: duplicate secret target x" in said


def test_a_credential_specs_config_is_a_reference_that_is_no_file():
    spec = container("credential_spec: {config: c}", "configs: {c: {content: x}}")
    assert spec.privileges.credential_spec.config == "shop_c"
    assert [(c.config_name, c.file, c.runtime) for c in spec.configs] == [("shop_c", None, {})]
    assert "undefined config 'x'" in refusal("credential_spec: {config: x}")
    assert "cannot specify both file and registry" in refusal("credential_spec: {file: a, registry: b}")


# --- run options --------------------------------------------------------------------------------------------
def test_run_options_are_container_labels():
    labels = container(
        "privileged: true\nshm_size: 1g\ndevices: ['/dev/a', '/dev/b:/dev/c:r', 'vendor.com/gpu=0']"
    ).labels
    assert labels["swarmsh.run.privileged"] == "true"
    assert labels["swarmsh.run.shm-size"] == str(1 << 30)
    assert labels["swarmsh.run.device"] == "/dev/a:/dev/a:rwm,/dev/b:/dev/c:r,vendor.com/gpu=0"
    assert container("privileged: false").labels == {"com.docker.stack.namespace": "shop"}


def test_a_seccomp_profile_is_taken_along():
    files = {"/p/profile.json": b'{"defaultAction": "SCMP_ACT_ALLOW"}', "/p/broken.json": b"{"}
    label = container("security_opt: ['seccomp:./profile.json', 'no-new-privileges:true']", files=files).labels[
        "swarmsh.run.security-opt"
    ]
    text = label if label.startswith("[") else json.dumps(label.split(","))
    assert json.loads(text)[0] == 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    assert "is no JSON" in refusal("security_opt: ['seccomp:./broken.json']", files=files)


def test_a_run_option_that_cannot_be_names_its_key():
    assert "services.web.pid: 'container:x' names a container of one node" in refusal("pid: 'container:x'")
    said = refusal("privileged: true\nlabels: {swarmsh.run.privileged: 'true'}")
    assert "says again what the service says of privileged" in said
    assert "differs from what another key says of cgroupns" in refusal("cgroup: host\ncgroupns_mode: private")


# --- whatever it is given -----------------------------------------------------------------------------------
def places(value, path=()):
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


PROJECT, READ = loaded(EVERYTHING)
SECTIONS = {name: getattr(PROJECT, name) for name in ("services", "networks", "volumes", "secrets", "configs")}
PLACES = [place for place in places(SECTIONS) if len(place) > 1]
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 1 << 70),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.sampled_from(["-1", "1e9", "80-79", "0x10", "/", "a:b:c:d", "::", "1.5.2", "∞", "1" * 400]),
    st.lists(st.integers() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3), max_size=2),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=junk)
def test_any_value_anywhere_is_taken_or_refused_by_name(place, value):
    changed = copy.copy(PROJECT)
    setattr(changed, place[0], copy.deepcopy(SECTIONS[place[0]]))
    at = getattr(changed, place[0])
    for key in place[1:-1]:
        at = at[key]
    at[place[-1]] = value
    try:
        answer = convert(changed, "shop", working_dir="/p", warnings=[], read=READ)
    except ComposeError as e:
        answer = e.path
    assert answer
    if isinstance(answer, StackSpec):
        assert from_wire(StackSpec, msgspec.json.decode(msgspec.json.encode(to_wire(answer)))) == answer


# --- what others wait for to be done ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "condition", "warned"),
    [
        ("", "on-failure", False),
        ("deploy: {restart_policy: {delay: 1s}}", "on-failure", False),
        ("restart: 'no'", "none", False),
        ("restart: always", "any", True),
        ("deploy: {restart_policy: {condition: any}}", "any", True),
    ],
)
def test_what_others_wait_for_to_be_done_is_not_run_again(body, condition, warned):
    stack, warnings = converted(f"""
        services:
          web: {{image: x, depends_on: {{migrate: {{condition: service_completed_successfully}}}}}}
          migrate:
            image: x
            {body}
        """)
    assert stack.services["migrate"].task_template.restart_policy.condition == condition
    assert stack.services["web"].task_template.restart_policy is None
    assert any("run again each time" in text for text in warnings.values()) == warned


def test_a_secret_from_the_environment_is_the_very_bytes():
    text = "services: {web: {image: x}}\nsecrets: {pw: {environment: PW}}"
    stack, _ = converted(text, variables={"PW": b"\xff\x00\xc3".decode("utf-8", "surrogateescape")})
    assert stack.secrets["pw"].data == b"\xff\x00\xc3"
