"""Loading and converting texts, as tests do it: files are a dict."""

from __future__ import annotations

import textwrap

from swarmsh.compose.convert import convert
from swarmsh.compose.load import load

FILES = {"/p/secret.txt": b"hidden", "/p/site.conf": b"listen 80"}
VARIABLES = {"PASSWORD": "from outside", "SITE": "of a variable"}


def loaded(text, files=None, variables=None):
    """The project of one compose file, which is /p/compose.yml."""
    known = {**FILES, **(files or {}), "/p/compose.yml": textwrap.dedent(text).encode()}

    def read(path):
        if path not in known:
            raise FileNotFoundError(2, "No such file or directory")
        return known[path]

    environment = VARIABLES if variables is None else variables
    return load(["/p/compose.yml"], environment=environment, env_files=(), read=read), read


def converted(text, **kwargs):
    """(stack, {path: message} of the warnings)"""
    project, read = loaded(text, **kwargs)
    notices = []
    stack = convert(project, "shop", working_dir="/p", warnings=notices, read=read)
    return stack, {".".join(map(str, notice.path)): notice.message for notice in notices}


def service(body, rest="", **kwargs):
    """(spec of the one service `web`, warnings); `body` is what it has beside an image."""
    indented = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    text = f"services:\n  web:\n    image: web:1\n{indented}\n{textwrap.dedent(rest)}"
    stack, notices = converted(text, **kwargs)
    return stack.services["web"], notices


def container(body, rest="", **kwargs):
    return service(body, rest, **kwargs)[0].task_template.container_spec
