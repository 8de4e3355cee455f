from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.template import Context, context_of, expand, expand_container
from swarmsh.errors import InvalidSpec
from swarmsh.model.specs import ContainerSpec, Driver, Mount, VolumeOptions
from tests.unit.core import samples

CONTEXT = Context(
    service_id="sid",
    service_name="web",
    service_labels={"b": "2", "a": "1"},
    node_id="nid",
    node_hostname="host1",
    architecture="x86_64",
    os="linux",
    task_id="tid",
    task_name="web.1.tid",
    task_slot="1",
)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("{{.Service.ID}}", "sid"),
        ("{{ .Service.Name }}", "web"),
        ("{{\t.Node.ID\n}}", "nid"),
        ("{{.Node.Hostname}}-{{.Task.Slot}}", "host1-1"),
        ("{{.Task.ID}}/{{.Task.Name}}", "tid/web.1.tid"),
        ("{{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}", "linux/x86_64"),
        ("{{.Service.Labels}}", "map[a:1 b:2]"),
        ('{{index .Service.Labels "a"}}', "1"),
        ('{{ index  .Service.Labels  "none" }}', ""),
        ("{{index .Service.Labels `b`}}", "2"),
        ("{{.Service.Labels.a}}", "1"),
        ('{{"{{.Task.ID}}"}}', "{{.Task.ID}}"),
        ('a{{ "}}" }}b', "a}}b"),
        ("a {{- .Task.Slot -}} b", "a1b"),
        ("{{/* nothing */}}x", "x"),
        ("a}}b", "a}}b"),
        ("{", "{"),
    ],
)
def test_placeholders_are_replaced(text: str, result: str) -> None:
    assert expand(text, CONTEXT) == result


@pytest.mark.parametrize(
    "text",
    [
        "{{.Foo}}",
        "{{.Task.Labels}}",
        "{{json .}}",
        "{{.Service.Labels.none}}",
        "{{if .Task.Slot}}x{{end}}",
        "{{.Task.Slot | upper}}",
        "{{}}",
        "{{.Task.ID",
        "x{{",
        '{{"}}',
    ],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        expand(text, CONTEXT)


def test_host_name_environment_and_mounts_are_expanded_and_nothing_else() -> None:
    spec = ContainerSpec(
        image="{{.Task.ID}}",
        hostname="h-{{.Task.Slot}}",
        env=("A={{.Node.ID}}", "{{.Task.ID}}=x", "B"),
        args=("{{.Task.ID}}",),
        mounts=(
            Mount(
                type="volume",
                source="v-{{.Task.Slot}}",
                target="/{{.Service.Name}}",
                volume_options=VolumeOptions(
                    labels={"l": "{{.Node.Hostname}}"},
                    driver_config=Driver(name="local", options={"o": "{{.Task.Slot}}"}),
                ),
            ),
        ),
    )
    expanded = expand_container(spec, CONTEXT)
    mount = expanded.mounts[0]
    assert expanded.hostname == "h-1"
    assert expanded.env == ("A=nid", "{{.Task.ID}}=x", "B")
    assert (expanded.image, expanded.args) == (spec.image, spec.args)
    assert (mount.source, mount.target) == ("v-1", "/web")
    assert mount.volume_options == VolumeOptions(
        labels={"l": "host1"}, driver_config=Driver(name="local", options={"o": "1"})
    )


def test_a_refusal_names_the_entry() -> None:
    with pytest.raises(InvalidSpec) as refusal:
        expand_container(ContainerSpec(env=("A={{.Foo}}",)), CONTEXT)
    assert refusal.value.message == (
        'expanding env failed: expanding env "A={{.Foo}}": placeholder {{.Foo}} is not known'
    )


def test_a_global_services_task_has_its_nodes_id_for_slot() -> None:
    node = samples.node(4)
    task = samples.task(1, slot=0, on=node)
    assert expand("{{.Task.Slot}} {{.Task.Name}}", context_of(task, node)) == "node4 web.node4.web-1"


@given(st.text('{}. TaskSlotID"`-/*', max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    try:
        result = expand(text, CONTEXT)
    except InvalidSpec:
        return
    assert "{{" in text or result == text
