"""Values as YAML has them, and short forms as the long ones."""

from __future__ import annotations

from typing import Any

import pytest

from swarmsh.compose.errors import ComposeError
from swarmsh.compose.load.plain_scalars import resolve_plain, spell
from swarmsh.compose.load.words import UnclosedQuote, split_words
from tests.unit.compose.example import load_text, service


@pytest.mark.parametrize(
    ("written", "value", "spelled"),
    [
        ("yes", "yes", "yes"),
        ("on", "on", "on"),
        ("true", True, "true"),
        ("False", False, "false"),
        ("~", None, ""),
        ("0777", 511, "511"),
        ("0o17", 15, "15"),
        ("0x1F", 31, "31"),
        ("0b11", 3, "3"),
        ("1_000", 1000, "1000"),
        ("-5", -5, "-5"),
        ("08", 8.0, "8"),
        ("1.10", 1.1, "1.1"),
        (".5", 0.5, "0.5"),
        ("1e3", 1000.0, "1000"),
        ("1000000.0", 1e6, "1e+06"),
        ("1234567.5", 1234567.5, "1.2345675e+06"),
        ("123456.5", 123456.5, "123456.5"),
        ("1e21", 1e21, "1e+21"),
        ("0.0001", 0.0001, "0.0001"),
        ("-0.00001", -1e-05, "-1e-05"),
        ("22:22", "22:22", "22:22"),
        ("2001-12-14", "2001-12-14", "2001-12-14"),
        ("1e999", "1e999", "1e999"),
        ("-", "-", "-"),
        ("1.2.3", "1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_are_what_dockers_tools_take_them_for(written: str, value: Any, spelled: str) -> None:
    found = resolve_plain(written)
    assert found == value and type(found) is type(value) and spell(found) == spelled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nginx -g 'daemon off;'", ["nginx", "-g", "daemon off;"]),
        ('sh -c "echo \\"a\\" \\b"', ["sh", "-c", 'echo "a" b']),
        ("echo a; echo b", ["echo", "a;", "echo", "b"]),
        ("a'b c'd\\ e", ["ab cd e"]),
        ("a#b # c\nd", ["a#b", "d"]),
        ("`a b`", ["`a", "b`"]),
        ("''", [""]),
        ("", []),
    ],
)
def test_commands_are_split_as_dockers_cli_splits_them(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize("text", ["a 'b", 'a "b', "a\\", '"\\'])
def test_a_quote_that_is_never_closed_is_refused(text: str) -> None:
    with pytest.raises(UnclosedQuote):
        split_words(text)


def port(**entries: Any) -> dict[str, Any]:
    return {"mode": "ingress", "protocol": "tcp", **entries}


@pytest.mark.parametrize(
    ("written", "ports"),
    [
        ("80", [port(target=80)]),
        ('"8080:80"', [port(target=80, published="8080")]),
        ('"8080:80/udp"', [port(target=80, published="8080", protocol="udp")]),
        ('"127.0.0.1:53:53/UDP"', [port(target=53, published="53", protocol="udp", host_ip="127.0.0.1")]),
        ('"127.0.0.1::53"', [port(target=53, host_ip="127.0.0.1")]),
        ('"[::1]:80:80"', [port(target=80, published="80", host_ip="::1")]),
        ('"3000-3001"', [port(target=3000), port(target=3001)]),
        ('"9090-9091:80-81"', [port(target=80, published="9090"), port(target=81, published="9091")]),
        ('"9090-9091:80"', [port(target=80, published="9090"), port(target=80, published="9091")]),
        ("{target: 80, published: 0x50}", [port(target=80, published="80")]),
        (
            '{target: "80", published: 8000-8010, mode: host}',
            [port(target=80, published="8000-8010", mode="host")],
        ),
    ],
)
def test_ports_in_all_forms(written: str, ports: list[Any]) -> None:
    assert service(f"ports: [{written}]")["ports"] == ports


@pytest.mark.parametrize(
    "written",
    [
        *(
            '"0"',
            '"99999:1"',
            '"1-0:5"',
            '"1-2:5-7"',
            '"a:80"',
            '"80/icmp"',
            '"1:2:3:4"',
            '"300.0.0.1:1:1"',
            '":80"x',
        ),
        *("80.5", "{published: 80}", "{target: 0}", "{target: 80, protocol: icmp}", "{target: 80, host_ip: here}"),
    ],
)
def test_what_is_no_port_is_refused(written: str) -> None:
    with pytest.raises(ComposeError):
        service(f"ports: [{written}]")


@pytest.mark.parametrize(
    ("written", "volume"),
    [
        ("data:/d", {"type": "volume", "source": "data", "target": "/d"}),
        ("/d", {"type": "volume", "target": "/d"}),
        ("./x:/d:ro", {"type": "bind", "source": "./x", "target": "/d", "read_only": True}),
        ("~/x:/d:rw", {"type": "bind", "source": "~/x", "target": "/d"}),
        (
            "/x:/d:rslave,z",
            {"type": "bind", "source": "/x", "target": "/d", "bind": {"propagation": "rslave", "selinux": "z"}},
        ),
        (
            "data:/d:nocopy,cached",
            {
                "type": "volume",
                "source": "data",
                "target": "/d",
                "consistency": "cached",
                "volume": {"nocopy": True},
            },
        ),
    ],
)
def test_volumes_in_all_forms(written: str, volume: dict[str, Any]) -> None:
    text = f"services: {{web: {{image: a, volumes: ['{written}']}}}}\nvolumes: {{data: }}"
    assert load_text(text).services["web"]["volumes"] == [volume]


@pytest.mark.parametrize("written", ["a:b:c:d", "a::b", ":/d", "data:/d:rx", "", "gone:/d"])
def test_what_is_no_volume_is_refused(written: str) -> None:
    with pytest.raises(ComposeError, match=r"services\.web\.volumes\[0\]"):
        service(f"volumes: ['{written}']")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("environment: [A, B=, C=x=y]", {"A": None, "B": "", "C": "x=y"}),
        ("environment: {A: , N: 1.50, T: true, Y: yes}", {"A": None, "N": "1.5", "T": "true", "Y": "yes"}),
        ("labels: [a, b=c]", {"a": "", "b": "c"}),
        ("labels: {a: }", {"a": ""}),
        ("sysctls: [net.core.somaxconn=1024]", {"net.core.somaxconn": "1024"}),
        ("command: ", None),
        ("command: ''", []),
        ("entrypoint: [a, 'b c']", ["a", "b c"]),
        ("tmpfs: /run", ["/run"]),
        ("dns: 10.0.0.1", ["10.0.0.1"]),
        ("ulimits: {nofile: 5}", {"nofile": {"soft": 5, "hard": 5}}),
        ("build: ./x", {"context": "./x"}),
        ("devices: [/dev/a]", [{"source": "/dev/a", "target": "/dev/a", "permissions": "rwm"}]),
        ("devices: ['/dev/a:r']", [{"source": "/dev/a", "target": "/dev/a", "permissions": "r"}]),
        ("devices: ['/dev/a:/dev/b']", [{"source": "/dev/a", "target": "/dev/b", "permissions": "rwm"}]),
        ("extra_hosts: ['a:1.2.3.4', 'a=[::1]', 'b:::2']", {"a": ["1.2.3.4", "::1"], "b": ["::2"]}),
        ("extra_hosts: {a: 1.2.3.4, b: [1.1.1.1]}", {"a": ["1.2.3.4"], "b": ["1.1.1.1"]}),
        ("healthcheck: {test: curl x}", {"test": ["CMD-SHELL", "curl x"]}),
        ("healthcheck: {test: [NONE]}", {"test": ["NONE"]}),
        ("expose: [80, 90-91/udp]", ["80", "90-91/udp"]),
        ("gpus: all", [{"count": "all"}]),
        ("stop_grace_period: 1d12h", "24h12h"),
        ("stop_grace_period: 0", None),
        ("shm_size: 64000000", "64000000"),
        ("mem_limit: 1.5 GiB", "1.5 GiB"),
        ("memswap_limit: -1", "-1"),
        ("cpus: 0.50", "0.50"),
        ("init: on", True),
        ("privileged: '0'", False),
        ("restart: no", "no"),
        ("restart: false", "no"),
        ("networks: [default]", {"default": {}}),
    ],
)
def test_short_forms_become_the_long_ones(text: str, expected: Any) -> None:
    key = text.partition(":")[0]
    if expected is None and key != "command":
        with pytest.raises(ComposeError, match="duration"):
            service(text)
    else:
        assert service(text)[key] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop_grace_period: 10", "a duration, not the number 10. Durations are written as 10s"),
        ("stop_grace_period: 10x", "a duration"),
        ("shm_size: 5x", "a number of bytes"),
        ("secrets: [{source: s, mode: 9999}]", r"secrets\[0\]\.mode: must be a file mode"),
        ("deploy: {mode: replcated}", "one of replicated, .*The nearest is 'replicated'"),
        ("deploy: {replicas: -1}", "a whole number from 0 on"),
        ("deploy: {update_config: {max_failure_ratio: 2}}", "a number from 0 to 1"),
        ("deploy: {rollback_config: {failure_action: rollback}}", "one of continue, pause"),
        ("oom_score_adj: 5000", "a whole number from -1000 to 1000"),
        ("healthcheck: {test: [curl, x]}", "one of NONE, CMD, CMD-SHELL"),
        ('command: "sh -c \'x"', "cannot be split into words"),
        ("extra_hosts: [a]", "somehost"),
        ("environment:", "must be a mapping or a list of KEY=value, not nothing"),
        ("ports: 80", "must be a list"),
        ("extends: {}", "the key 'service' is missing"),
        ("restart: sometimes", "one of no, always"),
        ("ulimits: {nofile: {soft: 1}}", "'hard' is missing"),
        ("networks: {front: {alias: [x]}}", "unknown key 'alias'; the nearest known one is 'aliases'"),
    ],
)
def test_what_a_key_does_not_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        service(text)


def test_modes_are_octal_as_yaml_or_as_text() -> None:
    text = """services:
  web:
    image: a
    secrets: [{source: s, mode: 0440}, {source: s, target: b, mode: "0440"}, {source: s, target: c, mode: 0o440}]
secrets: {s: {environment: S}}
"""
    assert [s["mode"] for s in load_text(text).services["web"]["secrets"]] == [0o440] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secrets: {s: {file: ./a, environment: A}}", r"secrets\.s\.environment: file and environment exclude"),
        ("configs: {s: {}}", r"configs\.s: has none of file, environment, content and external"),
        ("secrets: {s: {content: x}}", "unknown key 'content'"),
        ("secrets: {s: {external: true, file: ./a}}", r"secrets\.s\.file: external and file exclude"),
        ("networks: {n: {external: true, driver: overlay}}", "external and driver exclude"),
        ("volumes: {v: {external: {name: a}, name: b}}", r"volumes\.v\.external\.name: the name is there twice"),
        ("networks: {'a b': {}}", "'a b' is no name"),
        ("networks:", "networks: must be a mapping, not nothing"),
        ("name: Shop", "'Shop' is no name of a project"),
    ],
)
def test_sections_are_checked(text: str, message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        load_text(f"services: {{web: {{image: a}}}}\n{text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("networks: [nett]", r"networks\.nett: there is no network 'nett'; the nearest is 'net'"),
        ("volumes: [vool:/x]", r"volumes\[0\]: there is no volume 'vool'; the nearest is 'vol'"),
        ("secrets: [x]", r"secrets\[0\]: there is no secret 'x'.*Declare it at the top under secrets"),
        ("depends_on: [wep]", r"depends_on\.wep: there is no service 'wep'; the nearest is 'web'"),
        ("depends_on: [web]", r"in a circle: web -> web"),
        ("depends_on: {web: {}}", r"depends_on\.web: the key 'condition' is missing"),
    ],
)
def test_names_must_lead_somewhere(text: str, message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        load_text(f"services: {{web: {{image: a, {text}}}}}\nnetworks: {{net: }}\nvolumes: {{vol: }}")


def test_marks_say_where_each_key_was_written() -> None:
    text = "services:\n  web:\n    image: a\n    ports:\n      - 80\n      - 81-82\n    environment: [A=b]\n"
    marks = load_text(text).marks
    at = {p: marks.at(p) for p in [("services", "web", "ports", 2), ("services", "web", "environment", "A")]}
    assert [(p.line, p.column) for p in at.values() if p] == [(6, 9), (7, 19)]
    assert marks.at(("services", "web", "ports", 0, "protocol")) == marks.at(("services", "web", "ports", 0))
    nearest = marks.at(("services", "web", "deploy", "mode"))
    assert nearest is not None and nearest.line == 2
