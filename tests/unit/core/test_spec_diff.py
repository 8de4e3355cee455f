"""Two specs, field by field, and nothing in it that is a credential."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.masking import HIDDEN, masked, masked_words, names_a_secret
from swarmsh.core.spec_diff import diff_specs
from swarmsh.model.specs import ServiceSpec
from swarmsh.model.wire import from_wire


def spec(container=None, template=None, **fields):
    body = {
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": "web:1", **(container or {})}, **(template or {})},
        "Mode": {"Replicated": {"Replicas": 2}},
        **fields,
    }
    return from_wire(ServiceSpec, body)


def changes(before, after, **kwargs):
    return {
        f.field.removeprefix("TaskTemplate."): (f.before, f.after) for f in diff_specs(before, after, **kwargs)
    }


def test_equal_specs_do_not_differ():
    assert diff_specs(spec(), spec()) == ()


def test_each_field_that_differs_is_named_by_its_path_in_the_order_of_the_spec():
    before = spec({"Env": ["A=1", "GONE=x", "SAME=1"]}, {"ForceUpdate": 0}, Labels={"a": "b"})
    after = spec(
        {"Image": "web:2", "Env": ["NEW=n=1", "SAME=1", "A=2"]},
        {"ForceUpdate": 1, "Resources": {"Limits": {"MemoryBytes": 1 << 26}}},
        Mode={"Replicated": {"Replicas": 5}},
    )
    assert list(changes(before, after).items()) == [
        ("Labels[a]", ("b", None)),
        ("ContainerSpec.Image", ("web:1", "web:2")),
        ("ContainerSpec.Env[NEW]", (None, "n=1")),
        ("ContainerSpec.Env[A]", ("1", "2")),
        ("ContainerSpec.Env[GONE]", ("x", None)),
        ("Resources.Limits.MemoryBytes", (None, 1 << 26)),
        ("ForceUpdate", (0, 1)),
        ("Mode.Replicated.Replicas", (2, 5)),
    ]


def test_order_makes_no_difference_where_it_means_nothing():
    def placed(*constraints):
        return spec(
            {"Env": list(constraints), "Groups": list(constraints)},
            {"Placement": {"Constraints": list(constraints)}},
        )

    assert changes(placed("a==1", "b==2"), placed("b==2", "a==1")) == {}
    assert changes(spec({"Args": ["a", "b"]}), spec({"Args": ["b", "a"]})) == {
        "ContainerSpec.Args": (["a", "b"], ["b", "a"])
    }


def test_empty_blocks_say_nothing():
    assert changes(spec(), spec(template={"Resources": {"Limits": {}, "Reservations": {}}, "Placement": {}})) == {}


def test_entries_with_names_are_told_apart_by_them():
    before = spec(
        {
            "Mounts": [{"Type": "volume", "Source": "a", "Target": "/a"}],
            "Ulimits": [{"Name": "nofile", "Soft": 1}],
        },
        EndpointSpec={"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
    )
    after = spec(
        {
            "Mounts": [{"Type": "volume", "Source": "b", "Target": "/a"}],
            "Ulimits": [{"Name": "nofile", "Soft": 2}],
        },
        EndpointSpec={
            "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080},
                {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "host"},
            ]
        },
    )
    assert changes(before, after) == {
        "ContainerSpec.Mounts[/a].Source": ("a", "b"),
        "ContainerSpec.Ulimits[nofile].Soft": (1, 2),
        "EndpointSpec.Ports[53:53/udp host]": (
            None,
            {"Protocol": "udp", "TargetPort": 53, "PublishedPort": 53, "PublishMode": "host"},
        ),
    }


def test_networks_are_called_by_their_names():
    after = spec(template={"Networks": [{"Target": "net1id", "Aliases": ["a"]}, {"Target": "host"}]})
    assert changes(spec(), after, called={"net1id": "front"}) == {
        "Networks[front]": (None, {"Target": "front", "Aliases": ["a"]}),
        "Networks[host]": (None, {"Target": "host"}),
    }
    assert after.task_template.networks[0].target == "net1id"


def test_what_a_new_service_has_is_all_new():
    found = changes(None, spec(Mode={"Global": {}}))
    assert found["Name"] == (None, "web")
    assert found["Mode.Global"] == (None, {})


# --- credentials --------------------------------------------------------------------------------------------
SECRET = "hunter2-Sesame"


@pytest.mark.parametrize(
    "container",
    [
        {"Env": [f"DB_PASSWORD={SECRET}"]},
        {"Env": [f"AWS_SECRET_ACCESS_KEY={SECRET}"]},
        {"Env": [f"githubToken={SECRET}"]},
        {"Env": [f"DATABASE_URL=postgres://app:{SECRET}@db:5432/app"]},
        {"Env": [f"JDBC=jdbc:mysql://db/app?user=a&password={SECRET}&ssl=1"]},
        {"Env": [f"HEADER=Authorization: Bearer {SECRET}"]},
        {"Args": ["--password", SECRET]},
        {"Args": [f"--api-key={SECRET}", "run"]},
        {"Args": ["sh", "-c", f"PGPASSWORD={SECRET} psql"]},
        {"Command": ["run", f"redis://:{SECRET}@cache"]},
        {"Healthcheck": {"Test": ["CMD-SHELL", f"curl http://u:{SECRET}@localhost/"]}},
        {"Labels": {"traefik.basicauth.users": SECRET}},
        {
            "Mounts": [
                {
                    "Target": "/a",
                    "VolumeOptions": {"DriverConfig": {"Options": {"o": f"addr=x,password={SECRET}"}}},
                }
            ]
        },
        {"Mounts": [{"Target": "/a", "VolumeOptions": {"DriverConfig": {"Options": {"token": SECRET}}}}]},
    ],
)
def test_values_that_look_like_credentials_are_not_shown(container):
    for before, after in ((None, spec(container)), (spec(), spec(container)), (spec(container), spec())):
        found = diff_specs(before, after)
        assert SECRET not in repr(found)
        assert any(f.hidden for f in found)


def test_a_hidden_value_that_changes_is_still_a_change():
    (one,) = diff_specs(spec({"Env": ["API_TOKEN=a"]}), spec({"Env": ["API_TOKEN=b"]}))
    assert (one.field, one.before, one.after) == ("TaskTemplate.ContainerSpec.Env[API_TOKEN]", HIDDEN, HIDDEN)
    (one,) = diff_specs(spec({"Env": ["U=ftp://a:x@h"]}), spec({"Env": ["U=ftp://a:y@h"]}))
    assert (one.before, one.after, one.hidden) == ("ftp://a:(hidden)@h", "ftp://a:(hidden)@h", True)


def test_options_of_log_drivers_are_options_of_users():
    after = spec(template={"LogDriver": {"Name": "splunk", "Options": {"splunk-token": SECRET, "tag": "x"}}})
    found = changes(spec(), after)
    assert found["LogDriver.Options[splunk-token]"] == (None, HIDDEN)
    assert found["LogDriver.Options[tag]"] == (None, "x")


@pytest.mark.parametrize(
    "text",
    ["nginx:1.25", "http://example.com:8080/path", "a=b,c=d", "passenger=3", "node.labels.disk==ssd", "10s"],
)
def test_what_is_no_credential_stays_as_it_is(text):
    assert masked(text) == text


def test_names_of_credentials():
    assert all(
        map(names_a_secret, ("PASSWORD", "db-passwd", "SSH_KEY", "auth", "x.token", "apiKey", "PGPASSWORD"))
    )
    assert not any(map(names_a_secret, ("KEYBOARD", "PATH", "author", "MONKEY", "compass", "DEBUG")))


@given(st.lists(st.sampled_from(["run", "--token", "-v", "--name=x", "--secret=1", "a b"])))
def test_a_command_line_keeps_its_length_and_all_words_but_those_behind_such_flags(words):
    shown = masked_words(words)
    assert len(shown) == len(words)
    for i, word in enumerate(words):
        behind = i > 0 and shown[i - 1] == "--token"
        assert shown[i] == (HIDDEN if behind else "--secret=(hidden)" if word == "--secret=1" else word)
