"""Variables in compose files, and the files that they come from."""

from __future__ import annotations

import pytest

from swarmsh.compose.errors import ComposeError
from swarmsh.compose.load.dotenv import EnvFileError, parse_env, parse_raw_env
from swarmsh.compose.load.template import TemplateError, substitute
from tests.unit.compose.example import load_text, load_texts, service

VARIABLES = {"V": "v", "EMPTY": "", "OTHER": "other", "DOLLAR": "$V"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$V/${V}", "v/v"),
        ("$Vx", ""),
        ("$V.x-${OTHER}s", "v.x-others"),
        ("$$V $${V} 5$$", "$V ${V} 5$"),
        ("$DOLLAR", "$V"),  # a value is not looked at again
        ("${V:-d}${EMPTY:-d}${GONE:-d}", "vdd"),
        ("${V-d}${EMPTY-d}${GONE-d}", "vd"),
        ("${V:+r}${EMPTY:+r}${GONE:+r}", "r"),
        ("${V+r}${EMPTY+r}${GONE+r}", "rr"),
        ("${V:?e}${EMPTY?e}", "v"),
        ("${GONE:-${EMPTY:-${V}}}", "v"),
        ("${GONE:-a ${V} b}}", "a v b}"),
        ("${GONE:-}${GONE-}", ""),
        ("${GONE:-a:-b?c+d}", "a:-b?c+d"),
        ("${V:-${GONE?never asked}}", "v"),
        ("${EMPTY:+${GONE?never asked}}", ""),
        ("${GONE-http://x:80/?q=1}", "http://x:80/?q=1"),
    ],
)
def test_all_forms_of_interpolation(text: str, expected: str) -> None:
    assert substitute(text, VARIABLES.get) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${EMPTY:?say why}", "the variable EMPTY is required and empty: say why"),
        ("${GONE?}", "the variable GONE is required and not set"),
        ("${GONE:?because ${V}}", "not set: because v"),
        ("${V", "never closed"),
        ("${GONE:-${V}", "never closed"),
        ("${}", "no variable"),
        ("${V!x}", "no variable"),
        ("${V :-x}", "no variable"),
        ("$", "no variable"),
        ("5$ a piece", "no variable"),
        ("$1", "no variable"),
        ("${A-" * 30 + "}" * 30, "nested"),
    ],
)
def test_what_is_no_variable_is_refused(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        substitute(text, VARIABLES.get)


def test_a_variable_that_is_not_set_is_empty_and_told_of_once() -> None:
    project = load_text("services: {web: {image: 'a:$TAG', hostname: '$TAG'}}")
    assert project.services["web"]["image"] == "a:"
    assert [str(w) for w in project.warnings] == [
        "services.web.image: the variable TAG is not set; it stands for an empty text"
    ]


def test_numbers_and_booleans_may_come_from_variables() -> None:
    made = service("tty: $T\ndeploy: {replicas: '${N}'}", environment={"T": "yes", "N": "3"})
    assert made["tty"] is True and made["deploy"]["replicas"] == 3


def test_keys_and_extensions_are_not_interpolated() -> None:
    text = "x-a: 5$ a piece\nservices: {web: {image: a, labels: {$V: $V}}}"
    project = load_text(text, environment=VARIABLES)
    assert project.services["web"]["labels"] == {"$V": "v"}
    assert project.extensions == {"x-a": "5$ a piece"}


# --- where variables come from ---
IMAGE = "services: {web: {image: 'a:${TAG-none}'}}"


def image(files: dict[str, str], **options: object) -> str:
    return str(load_texts({"compose.yml": IMAGE, **files}, **options).services["web"]["image"])


def test_the_environment_wins_over_the_env_file_beside_the_compose_file() -> None:
    assert image({}) == "a:none"
    assert image({".env": "TAG=file"}) == "a:file"
    assert image({".env": "TAG=file"}, environment={"TAG": "shell"}) == "a:shell"


def test_env_files_that_are_named_take_the_place_of_the_default_one_and_the_later_wins() -> None:
    files = {".env": "TAG=default", "1.env": "TAG=one\nA=1", "2.env": "TAG=two$A"}
    assert image(files, env_files=["/shop/1.env", "/shop/2.env"]) == "a:two1"
    assert image(files, env_files=[]) == "a:none"
    with pytest.raises(ComposeError, match=r"/shop/3\.env cannot be read: No such file"):
        image(files, env_files=["/shop/3.env"])


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=v", "v"),
        ("K = v  ", "v"),
        ("export K=v", "v"),
        ("K: v", "v"),
        ("K=a b # not this", "a b"),
        ("K=a#b", "a#b"),
        ("K=", ""),
        ("K='$A ${A} \\n # x'", "$A ${A} \\n # x"),
        ('K="$A\\n\\t\\"q\\" \\$A # x" # not this', 'a\n\t"q" $A # x'),
        ('K="two\nlines"', "two\nlines"),
        ("K='two\nlines'", "two\nlines"),
        ("K=$A/${A}/${B:-b}/$$", "a/a/b/$"),
        ("K='it\\'s'", "it's"),
        ("# no\n\n  K=v\r\n", "v"),
        ("J=1\nK=$J$J", "11"),
    ],
)
def test_a_file_of_variables_is_read_as_compose_reads_it(line: str, value: str) -> None:
    assert parse_env(line, {"A": "a"}.get)["K"] == value


def test_a_bare_name_takes_its_value_from_the_environment_or_is_left_out() -> None:
    assert parse_env("A\nB\n", {"A": "a"}.get) == {"A": "a"}
    assert parse_raw_env("A\nB\n", {"A": "a"}.get) == {"A": "a"}


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("A=1\nB='x\ny", 2, 3, "never closed"),
        ("A=1\n=x", 2, 1, "no name"),
        ("A=1\nB C=x", 2, 3, "cannot stand in the name"),
        ("A='x'y", 1, 6, "after the closing quote"),
        ("A=1\nB=${", 2, 3, "no variable"),
    ],
)
def test_a_wrong_file_of_variables_says_where(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(EnvFileError) as caught:
        parse_env(text, {}.get)
    assert (caught.value.line, caught.value.column) == (line, column) and message in caught.value.message


@pytest.mark.parametrize(
    "line", ["K=hun$ ter2", "K='hunter2", "=hunter2", "K hunter2", "K='hun'ter2", "K=hun${ter2"]
)
def test_no_word_of_a_file_of_variables_is_in_an_error(line: str) -> None:
    for content in ({".env": line}, {"web.env": line}):
        text = "services: {web: {image: a, env_file: [{path: web.env, required: false}]}}"
        with pytest.raises(ComposeError) as caught:
            load_texts({"compose.yml": text, **content})
        assert "hun" not in str(caught.value) and "ter2" not in str(caught.value)


def test_a_file_of_variables_cannot_grow_without_bound() -> None:
    lines = ["A0=" + "x" * 1000] + [f"A{i}=$A{i - 1}$A{i - 1}" for i in range(1, 40)]
    with pytest.raises(EnvFileError, match="1 MiB"):
        parse_env("\n".join(lines), {}.get)


def test_raw_values_are_the_rest_of_the_line() -> None:
    assert parse_raw_env('  K="a" $A # b\r\n#C=1\nD==', {}.get) == {"K": '"a" $A # b', "D": "="}
    with pytest.raises(EnvFileError, match="white space"):
        parse_raw_env("A B=1", {}.get)


# --- env_file, environment, label_file ---
def test_the_environment_of_a_service_stands_on_its_env_files() -> None:
    text = """services:
  web:
    image: a
    env_file: [1.env, {path: 2.env, required: false}, {path: gone.env, required: false}]
    environment: {B: own, FROM_SHELL: , GONE: }
"""
    files = {"compose.yml": text, "1.env": "A=1\nB=1\nC=1", "2.env": "C='2'"}
    web = load_texts(files, environment={"FROM_SHELL": "s"}).services["web"]
    assert web["environment"] == {"A": "1", "B": "own", "C": "2", "FROM_SHELL": "s", "GONE": None}
    assert web["env_file"] == [
        {"path": "/shop/1.env", "required": True},
        {"path": "/shop/2.env", "required": False},
        {"path": "/shop/gone.env", "required": False},
    ]


def test_an_env_file_that_is_missing_or_wrong_is_an_error_with_its_path() -> None:
    text = "services:\n  web:\n    image: a\n    env_file: gone.env\n"
    with pytest.raises(
        ComposeError, match=r"yml:4:15: services\.web\.env_file\[0\]: /shop/gone\.env cannot be read"
    ):
        load_text(text)
    with pytest.raises(ComposeError, match=r"/shop/gone\.env:1:1: services\.web\.env_file\[0\]: no name"):
        load_texts({"compose.yml": text, "gone.env": "=5"})


def test_a_file_of_the_stack_schema_reads_its_env_files_as_docker_stack_does_and_says_so() -> None:
    text = "services: {web: {image: a, env_file: [web.env, {path: x.env, format: ''}]}}"
    files = {"web.env": "P='x'\nQ=y", "x.env": "R='x'"}
    assert load_texts({"c.yml": text, **files}).services["web"]["environment"] == {"P": "x", "Q": "y", "R": "x"}
    project = load_texts({"c.yml": f'version: "3.8"\n{text}', **files})
    assert project.services["web"]["environment"] == {"P": "'x'", "Q": "y", "R": "x"}
    assert "quotes and all" in project.warnings[0].message and "for P" in project.warnings[0].message


def test_labels_from_a_file_lie_under_those_of_the_service() -> None:
    text = "services: {web: {image: a, label_file: l.env, labels: {b: own}}}"
    web = load_texts({"c.yml": text, "l.env": "a=1\nb=1"}).services["web"]
    assert web["labels"] == {"a": "1", "b": "own"} and web["label_file"] == ["/shop/l.env"]


def test_variables_of_an_env_file_are_found_in_those_above_and_unset_ones_are_named() -> None:
    text = "services: {web: {image: a, env_file: [1.env, 2.env]}}"
    files = {"c.yml": text, ".env": "", "1.env": "HOST=db\nSHELL_=x", "2.env": "URL=http://$HOST/$SHELL_/$GONE"}
    project = load_texts(files, environment={"SHELL_": "outer"})
    assert project.services["web"]["environment"]["URL"] == "http://db/outer/"
    (warning,) = project.warnings
    assert warning.path == ("services", "web", "env_file", 1) and "GONE is not set" in warning.message


# --- the project's name ---
@pytest.mark.parametrize(
    ("top", "given", "expected"),
    [("name: shop\n", "", "shop"), ("name: shop-$V\n", "", "shop-v"), ("name: shop\n", "other", "other")],
)
def test_the_projects_name_is_a_variable(top: str, given: str, expected: str) -> None:
    text = f"{top}services: {{web: {{image: 'a:$COMPOSE_PROJECT_NAME'}}}}"
    environment = {"V": "v", "COMPOSE_PROJECT_NAME": "elsewhere"}
    project = load_text(text, environment=environment, name=given)
    assert project.services["web"]["image"] == f"a:{expected}"


# --- bytes ---
@pytest.mark.parametrize(
    "body", ["environment: {A: $PW}", "environment: [PW]", "command: [$PW]", "labels: {a: $PW}"]
)
def test_a_variable_that_is_no_text_is_refused_with_its_place(body: str) -> None:
    with pytest.raises(ComposeError, match=r"compose\.yml:\d+:\d+: services\.web\..*not UTF-8"):
        service(body, environment={"PW": "\udcff"})
