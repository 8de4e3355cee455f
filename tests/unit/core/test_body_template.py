"""Templates in secrets and configs: what Go's text/template makes of them, as swarmkit runs it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.core.body_template import _BLOCKS, _GIVEN, _NOT_THERE, BodyError, Costly, Wanted, expand_body
from swarmsh.core.template import PLACEHOLDERS
from swarmsh.core.template_functions import FUNCTIONS
from tests.unit.core.test_template import CONTEXT

ENV = ("MODE=prod", "EMPTY=", "NOTHING", "PAIR=a=b", "MODE=later")
READ = {("secret", "db"): "hunter2", ("config", "/etc/c"): "conf\n{{.Task.ID}}"}


def expanded(text: str) -> str:
    return expand_body(text, CONTEXT, ENV, READ)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain }} {", "plain }} {"),
        ("{{.Service.Name}}/{{ .Task.Slot }}", "web/1"),
        ('password={{ secret "db" }}', "password=hunter2"),
        ('{{config "/etc/c"}}', "conf\n{{.Task.ID}}"),  # not expanded once more, as in Swarm
        ('{{env "MODE"}},{{env "EMPTY"}},{{env "NOTHING"}},{{env "PAIR"}},{{env "none"}}', "prod,,,a=b,"),
        ('{{"db" | secret}}', "hunter2"),
        ('{{ secret `db` | printf "%q" }}', '"hunter2"'),
        ('{{if eq (env "MODE") "prod"}}a{{else}}b{{end}}', "a"),
        ('{{if eq (env "MODE") "x"}}a{{else if ne .Task.Slot "2"}}b{{else}}c{{end}}', "b"),
        ('{{if and (env "MODE") (not (env "none"))}}yes{{end}}', "yes"),
        ('{{or (env "none") "default"}}', "default"),
        ('{{with env "MODE"}}[{{.}}]{{end}}{{with env "none"}}x{{else}}none{{end}}', "[prod]none"),
        ("{{range $k, $v := .Service.Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range .Service.Labels}}{{.}},{{$.Service.Name}} {{end}}", "1,web 2,web "),
        ("{{range $v := .Service.Labels}}{{$v}}{{else}}none{{end}}", "12"),
        ('{{$x := env "MODE"}}{{$x}}{{if true}}{{$x = "other"}}{{end}}{{$x}}', "prodother"),
        ('{{index .Service.Labels "a"}}{{index .Service.Labels "none"}}', "1"),
        ("{{.Service.Labels}} {{len .Service.Labels}} {{len `äb`}}", "map[a:1 b:2] 2 3"),
        ("{{$n := .Node}}{{$n.Hostname}} {{(index .Service.Labels `b`)}}", "host1 2"),
        ('{{join "," "a" "b"}} {{print 1 2 "x" 3}} {{println "a" 1}}', "a,b 1 2x3 a 1\n"),
        ('{{printf "%05d|%-4s|%v|%t|%x|%%" 42 "ab" 1.5 true "az"}}', "00042|ab  |1.5|true|617a|%"),
        ('{{html `<a href="x">`}} {{urlquery `a b&c`}}', "&lt;a href=&#34;x&#34;&gt; a+b%26c"),
        ("a {{- /* nothing */ -}} b{{/* more\nof it */}}c", "abc"),
        ("a\n  {{- 1 -}}  \n b", "a1b"),
        ('{{ "}}" }}{{ "a\\tb\\u00e4" }}', "}}a\tbä"),
        ("{{lt 1 2}}{{ge 2 2}}{{gt `a` `b`}}{{eq 1 2 1}}", "truetruefalsetrue"),
        (r'{{"\x41\a\v\101\U0001F600\"\\"}}', 'A\a\vA\U0001f600"\\'),
        (r'{{eq "\xc3\xa4" "ä"}}{{"\xff"}}', "true\udcff"),
        ("{{`a\r\nb`}}", "a\nb"),
        ("{{with .Node}}{{.Platform.OS}}{{end}}", "linux"),
        ("\udce4{{.Task.ID}}", "\udce4tid"),
    ],
)
def test_what_go_makes_of_it(text: str, result: str) -> None:
    assert expanded(text) == result


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a\nb {{.Foo}}", 2, "there is no such field or key: .Foo"),
        ("{{.Service.Labels.none}}", 1, "there is no such field or key: .Service.Labels.none"),
        ("\n\n{{upper `x`}}", 3, "function not defined: upper"),
        ("{{secret}}", 1, "secret takes one text"),
        ("{{secret 1}}", 1, "secret takes one text"),
        ("{{if true}}x", 1, "unexpected end: an {{end}} is missing"),
        ("{{end}}", 1, "unexpected {{end}}"),
        ("{{else}}", 1, "unexpected {{else}}"),
        ("x\n{{.Task.ID", 2, "unclosed action"),
        ("{{}}", 1, "missing value for command"),
        ("{{ env `A` | }}", 1, "missing value for command"),
        ("{{(env `A`}}", 1, "unclosed left parenthesis"),
        ("{{env `A`)}}", 1, "unexpected right parenthesis: )"),
        ("{{$x}}", 1, "undefined variable: $x"),
        ("{{if true}}{{$x := 1}}{{end}}{{$x}}", 1, "undefined variable: $x"),
        ("{{.Task}}", 1, "a group of values cannot be printed: name one of them"),
        ("{{.Task.ID 3}}", 1, "an argument is given to what is no function"),
        ("{{eq 1 `a`}}", 1, "eq: incompatible types for comparison"),
        ("{{not}}", 1, "wrong arguments for not"),
        ("{{printf `%d` `a`}}", 1, "printf: a verb does not fit its argument"),
        ("{{range .Task.ID}}{{end}}", 1, "range can iterate over maps only"),
        ('{{define "a"}}{{end}}', 1, "templates inside of templates, nil and jumps are not supported: define"),
        ('{{"\udcff\\q"}}', 1, 'malformed string: "\\udcff\\q"'),
        ('{{config "\\ud800"}}', 1, 'malformed string: "\\ud800"'),
        ("{{%s}}" % ("y" * 81), 1, "function not defined: %s…" % ("y" * 80)),
        ("{{ %s }}" % ("7" * 5000), 1, "integer overflow: %s…" % ("7" * 80)),
        ("{{9223372036854775808}}", 1, "integer overflow: 9223372036854775808"),
        ('{{urlquery "\\udd00"}}', 1, 'malformed string: "\\udd00"'),
        (r'{{"\/"}}', 1, r'malformed string: "\/"'),
        (r'{{"\U00110000"}}', 1, r'malformed string: "\U00110000"'),
        ("{{^}}", 1, "unexpected character in an action: '^'"),
        ("{{" + "(" * 60 + "}}", 1, "more than 50 blocks or parentheses inside each other"),
    ],
)
def test_what_cannot_be_expanded_names_line_and_word(text: str, line: int, words: str) -> None:
    with pytest.raises(BodyError) as caught:
        expanded(text)
    assert caught.value.message == f"line {line}: {words}"


def test_variables_of_a_range_without_a_round_are_the_empty_map() -> None:
    text = "{{range $k, $x := .Service.Labels}}{{$x}}{{else}}{{$x}}{{$k}}{{end}}"
    assert expand_body(text, replace(CONTEXT, service_labels={}), (), {}) == "map[]map[]"


def test_the_error_of_a_secret_has_nothing_of_it() -> None:
    with pytest.raises(BodyError) as caught:
        expanded("x\n{{hunter2 `swordfish`}}")
    assert caught.value.shown(secret=True) == "its template cannot be expanded: line 2: function not defined"
    assert caught.value.shown(secret=False).endswith("function not defined: hunter2")


def test_contents_that_were_not_read_yet_are_asked_for() -> None:
    with pytest.raises(Wanted) as caught:
        expanded('{{if true}}{{config "other"}}{{end}}')
    assert (caught.value.kind, caught.value.target) == ("config", "other")


@pytest.mark.parametrize(
    "text",
    [
        "{{range $.Service.Labels}}" * 20 + "x" + "{{end}}" * 20,
        "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 50,
        "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 20 + "{{$x = join $x" + " ``" * 1000 + "}}",
        "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 20 + "{{$x}}" * 10,
        "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 19 + "{{if eq $x $x}}{{end}}" * 100,
        "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 15 + "{{$y := html $x | urlquery}}" * 500,
        "{{range $.Service.Labels}}" * 15 + "{{if true}}{{end}}" * 100 + "{{end}}" * 15,
        "{{$a := 1}}" + "".join(f"{{{{$v{n} := 1}}}}" for n in range(900)) + "{{if $a}}{{end}}" * 10_000,
    ],
)
def test_an_expansion_that_grows_without_measure_is_ended(text: str) -> None:
    with pytest.raises(BodyError, match="more than is reasonable"):
        expanded(text)


def test_an_expansion_of_more_work_than_is_allowed_for_is_left_to_others() -> None:
    text = "{{$x := `ab`}}" + "{{$x = print $x $x}}" * 15 + "{{len $x}}"
    assert len(text) < 400
    for costly in (text, "x" * 20_000 + "{{1}}"):
        with pytest.raises(Costly):
            expand_body(costly, CONTEXT, (), {}, allowed=100_000)
        assert expand_body(costly, CONTEXT, (), {}).endswith(("65536", "x1"))
    assert expand_body("{{.Task.ID}}", CONTEXT, (), {}, allowed=100_000) == "tid"


def test_many_words_in_one_action_are_read_in_time_that_grows_with_them() -> None:
    with pytest.raises(BodyError, match="wrong arguments for not"):
        expanded("{{not" + " 1" * 400_000 + "}}")


@given(st.text(alphabet='{}-|()$=:."`a b\n1ifelsendrange,', max_size=60))
def test_any_text_expands_or_is_refused(text: str) -> None:
    with suppress(BodyError, Wanted):
        expanded(text)


@given(st.text(alphabet=st.characters(exclude_characters="{")))
def test_a_text_without_actions_stays_as_it_is(text: str) -> None:
    assert expanded(text) == text


def test_every_function_and_value_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs/templates.md").read_text()
    assert [name for name in (*FUNCTIONS, *_BLOCKS, *_NOT_THERE) if f"`{name}`" not in page] == []
    assert [value for value in PLACEHOLDERS if f"{{{{{value}}}}}" not in page] == []
    assert [name for name in _GIVEN if f'{{{{{name} "' not in page] == []
