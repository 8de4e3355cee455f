from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.reference import parse_reference
from swarmsh.errors import InvalidSpec

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "complete", "familiar"),
    [
        ("nginx", "docker.io/library/nginx", "nginx"),
        ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
        ("index.docker.io/user/app:x", "docker.io/user/app:x", "user/app:x"),
        ("library/nginx", "docker.io/library/nginx", "nginx"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("10.9.0.1:5000/a/b/c:v_1.2-x", "10.9.0.1:5000/a/b/c:v_1.2-x", "10.9.0.1:5000/a/b/c:v_1.2-x"),
        ("[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app", "[2001:db8::1]:5000/app"),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "a__b/c--d.e_f"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}", f"nginx:1@{DIGEST}"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
    ],
)
def test_a_reference_is_completed_and_shortened_as_docker_does(text: str, complete: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (complete, familiar)
    assert parse_reference(complete) == reference
    assert parse_reference(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "nginx:",
        "nginx:-x",
        "nginx:" + "x" * 129,
        "nginx@sha256:abc",
        "nginx@md5:" + "0" * 32,
        f"nginx@{DIGEST.upper()}",
        "nginx@",
        "-nginx",
        "a//b",
        "a/",
        "a..b",
        "a___b",
        "http://nginx",
        "nginx latest",
        "a" * 300,
        "0" * 64,
        "localhost:port/app",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        parse_reference(text)


def test_capitals_in_a_repository_are_named_as_the_fault() -> None:
    with pytest.raises(InvalidSpec, match="must be lowercase"):
        parse_reference("Nginx")


def test_latest_is_added_only_without_tag_and_digest() -> None:
    assert parse_reference("nginx").tagged().familiar == "nginx:latest"
    assert parse_reference("nginx:1").tagged().familiar == "nginx:1"
    assert parse_reference(f"nginx@{DIGEST}").tagged().familiar == f"nginx@{DIGEST}"


def test_pinning_keeps_the_tag() -> None:
    assert parse_reference("nginx").pinned(DIGEST).familiar == f"nginx:latest@{DIGEST}"
    assert parse_reference("nginx:1@" + DIGEST).pinned(DIGEST).familiar == f"nginx:1@{DIGEST}"


@given(st.text("abzABZ019._-/:@[]", max_size=40))
def test_any_text_is_read_or_refused_and_reads_back_the_same(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidSpec:
        return
    assert parse_reference(str(reference)) == reference
    assert parse_reference(reference.familiar) == reference
