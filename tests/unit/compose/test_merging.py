"""Several files, services that extend others, included files and profiles."""

from __future__ import annotations

from typing import Any

import pytest

from swarmsh.compose.errors import ComposeError, Position
from tests.unit.compose.example import load_text, load_texts


def web(keys: str, rest: str = "") -> str:
    return f"services: {{web: {{{keys}}}}}\n{rest}"


def merged(base: str, over: str, rest: str = "") -> dict[str, Any]:
    files = {"1.yml": web(f"image: a, {base}", rest), "2.yml": web(over)}
    return load_texts(files, "1.yml", "2.yml").services["web"]


@pytest.mark.parametrize(
    ("key", "base", "over", "expected"),
    [
        ("command", "a b", "[c]", ["c"]),
        ("entrypoint", "[a]", "b", ["b"]),
        ("environment", "[A=1, B=1]", "{B: 2, C: 3}", {"A": "1", "B": "2", "C": "3"}),
        ("labels", "{a: 1}", "[b=2]", {"a": "1", "b": "2"}),
        ("dns", "1.1.1.1", "[2.2.2.2, 1.1.1.1]", ["1.1.1.1", "2.2.2.2"]),
        ("cap_add", "[A]", "[A, B]", ["A", "B"]),
        ("tmpfs", "/run", "'/run:size=1m'", ["/run:size=1m"]),
        ("healthcheck", "{test: a, retries: 3}", "{test: [CMD, b]}", {"test": ["CMD", "b"], "retries": 3}),
        (
            "ulimits",
            "{a: 1, b: 2}",
            "{b: {soft: 3, hard: 4}}",
            {"a": {"soft": 1, "hard": 1}, "b": {"soft": 3, "hard": 4}},
        ),
        (
            "logging",
            "{driver: a, options: {x: 1}}",
            "{driver: a, options: {y: 2}}",
            {"driver": "a", "options": {"x": "1", "y": "2"}},
        ),
        (
            "logging",
            "{driver: a, options: {x: 1}}",
            "{options: {y: 2}}",
            {"driver": "a", "options": {"x": "1", "y": "2"}},
        ),
        ("logging", "{driver: a, options: {x: 1}}", "{driver: b}", {"driver": "b"}),
        (
            "deploy",
            "{replicas: 1, labels: {a: 1}}",
            "{replicas: 2, labels: [b=2]}",
            {"replicas": 2, "labels": {"a": "1", "b": "2"}},
        ),
        ("environment", "{A: 1}", "", {"A": "1"}),
        ("environment", "", "{A: 1}", {"A": "1"}),
        ("tty", "true", "", True),
        ("x-any", "{a: 1}", "{b: 2}", {"b": 2}),
        ("environment", "{A: 1}", "!reset null", None),
        ("ports", "[80]", "!reset []", None),
        ("environment", "{A: 1, B: 2}", "{A: !reset null}", {"B": "2"}),
        ("environment", "{A: 1}", "!override {B: 2}", {"B": "2"}),
        ("cap_add", "[A]", "!override [B]", ["B"]),
        ("extra_hosts", "['a:1.1.1.1']", "['a:2.2.2.2']", {"a": ["1.1.1.1", "2.2.2.2"]}),
    ],
)
def test_a_later_file_changes_an_earlier_one(key: str, base: str, over: str, expected: Any) -> None:
    found = merged(f"{key}: {base}", f"{key}: {over}")
    assert found.get(key) == expected


def test_ports_are_the_same_by_address_port_and_protocol() -> None:
    ports = merged(
        'ports: ["80:80", "81:81"]', "ports: [{target: 80, published: 80, mode: host}, '82:81', '80:80/udp']"
    )
    assert [(p["published"], p["target"], p["mode"], p["protocol"]) for p in ports["ports"]] == [
        ("80", 80, "host", "tcp"),
        ("81", 81, "ingress", "tcp"),
        ("82", 81, "ingress", "tcp"),
        ("80", 80, "ingress", "udp"),
    ]


def test_volumes_secrets_and_configs_are_the_same_by_target() -> None:
    rest = "volumes: {a: , b: }\nsecrets: {s: {file: s}, t: {file: t}}\nconfigs: {s: {file: s}, t: {file: t}}"
    found = merged(
        "volumes: [a:/x, a:/y], secrets: [s, t], configs: [s]",
        "volumes: [b:/y], secrets: [{source: t, target: s}], configs: [{source: t, target: /s}]",
        rest,
    )
    assert [(v["source"], v["target"]) for v in found["volumes"]] == [("a", "/x"), ("b", "/y")]
    assert found["secrets"] == [{"source": "t", "target": "s"}, {"source": "t"}]
    assert found["configs"] == [{"source": "t", "target": "/s"}]


def test_sections_are_merged_and_positions_are_those_of_what_won() -> None:
    files = {
        "1.yml": "name: one\nservices: {a: {image: a}}\nnetworks: {n: {driver: overlay}}\n",
        "2.yml": "name: two\nservices:\n  a: {image: b}\n  b: {image: c}\nnetworks: {n: {internal: true}}\n",
    }
    project = load_texts(files, "1.yml", "2.yml")
    assert project.name == "two" and list(project.services) == ["a", "b"]
    assert project.networks == {"n": {"driver": "overlay", "internal": True}}
    assert project.marks.at(("services", "a", "image")) == Position("/shop/2.yml", 3, 7)
    assert project.marks.at(("networks", "n", "driver")) == Position("/shop/1.yml", 3, 16)


def test_documents_of_one_file_are_merged_as_files_are() -> None:
    assert load_text(web("image: a, tty: true") + "---\n" + web("image: b")).services["web"] == {
        "image": "b",
        "tty": True,
    }


def test_merge_keys_and_anchors() -> None:
    text = """x-base: &base {tty: true, image: a, environment: {A: 1}}
x-more: &more {image: b, init: true}
services:
  web: {<<: [*base, *more], environment: {B: 2}}
"""
    assert load_text(text).services["web"] == {"tty": True, "image": "a", "init": True, "environment": {"B": "2"}}


# --- extends ---
def test_a_service_extends_another_of_its_file() -> None:
    text = """services:
  base: {image: a, environment: [A=1, B=1], ports: ['80'], command: x}
  middle: {extends: base, environment: {B: 2}, command: y}
  web: {extends: {service: middle}, ports: !reset [], environment: {C: 3}}
"""
    assert load_text(text).services["web"] == {
        "image": "a",
        "environment": {"A": "1", "B": "2", "C": "3"},
        "command": ["y"],
    }


def test_a_service_extends_one_of_another_file_whose_paths_start_there() -> None:
    files = {
        "compose.yml": web("extends: {file: sub/base.yml, service: base}, env_file: own.env"),
        "own.env": "A=own",
        "sub/base.yml": "services: {base: {image: 'a:$TAG', extends: lower, env_file: b.env}, lower: {tty: true}}",
        "sub/b.env": "A=base\nB=base",
    }
    found = load_texts(files, environment={"TAG": "1"}).services
    assert list(found) == ["web"] and found["web"]["image"] == "a:1" and found["web"]["tty"] is True
    assert found["web"]["environment"] == {"A": "own", "B": "base"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"c.yml": web("extends: web")}, r"c\.yml:1:27: services\.web\.extends: web extends itself"),
        ({"c.yml": "services: {a: {extends: b}, b: {extends: a}}"}, "extends itself"),
        (
            {
                "c.yml": web("extends: {file: d.yml, service: x}"),
                "d.yml": "services: {x: {extends: {file: c.yml, service: web}}}",
            },
            "extends itself",
        ),
        (
            {"c.yml": "services: {a: {extends: bb}, b: {image: a}}"},
            "no service 'bb' in /shop/c.yml. The nearest is 'b'",
        ),
        (
            {"c.yml": web("extends: {file: d.yml, service: x}")},
            r"services\.web\.extends: /shop/d\.yml cannot be read",
        ),
        ({"c.yml": web("extends: {file: d.yml, service: x}"), "d.yml": "name: x"}, "d.yml has no services"),
        (
            {"c.yml": web("extends: {file: d.yml, service: x}"), "d.yml": "services: {x: {imge: a}}"},
            r"d\.yml:1:16: services\.x\.imge",
        ),
        (
            {
                "c.yml": "services: {"
                + ", ".join(f"s{i}: {{extends: s{i + 1}}}" for i in range(99))
                + ", s99: {image: a}}"
            },
            "more than 50",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused(files: dict[str, str], message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        load_texts(files)


# --- include ---
def test_included_files_bring_their_own_folder_and_variables() -> None:
    files = {
        "compose.yml": "include: [sub/db.yml]\n" + web("image: 'a:$TAG', depends_on: [db]"),
        ".env": "TAG=outer",
        "sub/db.yml": "services: {db: {image: 'p:$TAG-$OWN', env_file: db.env}}\nsecrets: {s: {file: ./s.txt}}",
        "sub/.env": "TAG=inner\nOWN=own",
        "sub/db.env": "A=1",
    }
    project = load_texts(files)
    assert project.services["web"]["image"] == "a:outer"
    assert project.services["db"] == {
        "image": "p:outer-own",
        "env_file": [{"path": "/shop/sub/db.env", "required": True}],
        "environment": {"A": "1"},
    }
    assert project.secrets == {"s": {"file": "/shop/sub/s.txt"}}


def test_include_in_the_long_form() -> None:
    files = {
        "compose.yml": "include:\n"
        "  - {path: [sub/a.yml, sub/b.yml], project_directory: other, env_file: x.env}\n" + web("image: a"),
        "sub/a.yml": "services: {db: {image: p, tty: true}}\nconfigs: {c: {file: c.txt}}",
        "sub/b.yml": "services: {db: {image: $IMAGE}}",
        "x.env": "IMAGE=q",
        "other/.env": "IMAGE=not-this",
    }
    project = load_texts(files)
    assert project.services["db"] == {"image": "q", "tty": True}
    assert project.configs == {"c": {"file": "/shop/other/c.txt"}}


def test_a_later_file_changes_what_an_earlier_one_includes() -> None:
    files = {
        "1.yml": "include: [db.yml]\n" + web("image: a"),
        "2.yml": "services: {db: {image: q}}",
        "db.yml": "services: {db: {image: p, tty: true}}",
    }
    assert load_texts(files, "1.yml", "2.yml").services["db"] == {"image": "q", "tty": True}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"c.yml": "include: [c.yml]\nservices: {a: {image: a}}"},
            r"c\.yml:1:11: include\[0\]: .*includes itself",
        ),
        (
            {"c.yml": "include: [d.yml]", "d.yml": "include: [c.yml]"},
            r"d\.yml:1:11: include\[0\]: .*includes itself",
        ),
        ({"c.yml": "include: [d.yml]"}, r"c\.yml:1:11: include\[0\]: /shop/d\.yml cannot be read"),
        ({"c.yml": "include: [{path: []}]"}, r"include\[0\]: names no file"),
        (
            {"c.yml": "include: [d.yml]\n" + web("image: a"), "d.yml": web("image: b")},
            r"services\.web is in the included file",
        ),
        ({"c.yml": "include: d.yml"}, "include: must be a list"),
        ({"c.yml": "include: [{path: d.yml, env_file: gone.env}]"}, r"/shop/gone\.env cannot be read"),
        (
            {
                "c.yml": "include: [a.yml, a.yml]",
                **{
                    f"{x}.yml": f"include: [{y}.yml, {y}.yml]"
                    for x, y in zip("abcdefghij", "bcdefghijk", strict=True)
                },
                "k.yml": "services: {a: {image: a}}",
            },
            "more than 500 files",
        ),
    ],
)
def test_what_cannot_be_included_is_refused(files: dict[str, str], message: str) -> None:
    with pytest.raises(ComposeError, match=message):
        load_texts(files)


def test_the_same_in_two_included_files_is_no_conflict() -> None:
    files = {"c.yml": "include: [a.yml, b.yml]", "a.yml": web("image: a"), "b.yml": web("image: a")}
    assert load_texts(files).services == {"web": {"image": "a"}}


# --- profiles ---
PROFILES = """services:
  web: {image: a}
  debug: {image: b, profiles: [debug]}
  trace: {image: c, profiles: [debug, trace], depends_on: {debug: {condition: service_started, required: false}}}
"""


@pytest.mark.parametrize(
    ("options", "services"),
    [
        ({}, ["web"]),
        ({"profiles": ["debug"]}, ["web", "debug", "trace"]),
        ({"profiles": ["trace"]}, ["web", "trace"]),
        ({"profiles": ["*"]}, ["web", "debug", "trace"]),
        ({"environment": {"COMPOSE_PROFILES": "trace,x"}}, ["web", "trace"]),
        ({"environment": {"COMPOSE_PROFILES": "trace"}, "profiles": ["x"]}, ["web"]),
    ],
)
def test_services_of_profiles_that_are_not_active_are_left_out(options: Any, services: list[str]) -> None:
    assert list(load_text(PROFILES, **options).services) == services


def test_a_dependency_that_is_not_required_goes_with_its_profile() -> None:
    assert load_text(PROFILES, profiles=["trace"]).services["trace"]["depends_on"] == {}


def test_a_service_cannot_need_one_whose_profile_is_not_active() -> None:
    with pytest.raises(
        ComposeError, match=r"web depends on db, whose profiles are not active: data\. Activate one"
    ):
        load_text("services: {web: {image: a, depends_on: [db]}, db: {image: b, profiles: [data]}}")


def test_a_service_that_is_left_out_is_still_checked() -> None:
    with pytest.raises(ComposeError, match="imge"):
        load_text("services: {web: {image: a}, db: {imge: b, profiles: [data]}}")


def test_dependencies_in_a_circle_are_named() -> None:
    needs = {"a": "b", "b": "c, d", "c": "b", "d": ""}
    text = "services:\n" + "".join(f"  {name}: {{image: a, depends_on: [{of}]}}\n" for name, of in needs.items())
    with pytest.raises(ComposeError, match=r"in a circle: b -> c -> b"):
        load_text(text)


# --- the whole ---
def test_relative_paths_start_from_the_working_directory() -> None:
    text = web("image: a, secrets: [s]", "secrets: {s: {file: ../s}}\nconfigs: {c: {file: /abs}}")
    project = load_text(text, working_dir="/else/where")
    assert project.secrets["s"]["file"] == "/else/s" and project.configs["c"]["file"] == "/abs"


def test_real_files_are_read(tmp_path: Any) -> None:
    from swarmsh.compose.load import load

    (tmp_path / "compose.yml").write_text(web("image: 'a:$TAG'"))
    (tmp_path / ".env").write_text("TAG=5")
    assert load([tmp_path / "compose.yml"], environment={}).services["web"]["image"] == "a:5"
    with pytest.raises(ComposeError, match=r"gone\.yml cannot be read: No such file"):
        load([tmp_path / "gone.yml"], environment={})
    with pytest.raises(ComposeError, match="cannot be read: Is a directory"):
        load([tmp_path], environment={})
    with pytest.raises(ComposeError, match="no compose file was given"):
        load([], environment={})


def test_a_file_with_nothing_to_deploy_is_refused() -> None:
    with pytest.raises(ComposeError, match="there is no service"):
        load_text("name: x")
    assert load_text("networks: {n: }").networks == {"n": {}}


def test_a_file_is_extended_with_the_variables_of_who_includes_it() -> None:
    base = "services: {base: {image: 'a:$TAG'}}"
    one = "services: {NAME: {extends: {file: ../base.yml, service: base}}}"
    files = {
        "c.yml": "include: [a/c.yml, b/c.yml]",
        **{f"{name}/c.yml": one.replace("NAME", name) for name in "ab"},
        **{f"{name}/.env": f"TAG={name}" for name in "ab"},
        "base.yml": base,
    }
    found = load_texts(files).services
    assert {name: found[name]["image"] for name in found} == {"a": "a:a", "b": "a:b"}
