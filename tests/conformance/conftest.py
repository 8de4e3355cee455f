"""Real clients against the API's socket: every docker CLI there is, and the docker SDK for Python.

`SWARMSH_DOCKER_CLIS` names the CLIs (paths, colon-separated); without it, the `docker` in PATH. Behind the socket
everything is simulated (`tests/fakes/serving.py`): this is about the API's form, and tests with real nodes come on
top.
"""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `tests.fakes` can be imported

from tests.fakes.serving import served


def docker_clis():
    named = [p for p in os.environ.get("SWARMSH_DOCKER_CLIS", "").split(":") if p]
    found = shutil.which("docker")
    return named or ([found] if found else [])


class DockerCli:
    """A docker CLI that talks to one socket, with a configuration of its own, and perhaps more variables."""

    def __init__(self, binary, socket, home, variables=None):
        self.binary, self.socket, self.home = binary, socket, home
        self.variables = variables or {}

    def _environment(self):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DOCKER_CONFIG": str(self.home),
            "DOCKER_HOST": f"unix://{self.socket}",
            "LC_ALL": "C",
            **self.variables,
        }

    async def start(self, *arguments, stdin=None):
        return await asyncio.create_subprocess_exec(
            self.binary,
            *arguments,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments, stdin=None):
        """(exit code, standard output, standard error); `stdin` are the bytes that it reads there, if any."""
        process = await self.start(*arguments, stdin=stdin)
        async with asyncio.timeout(120):
            out, err = await process.communicate(stdin)
        return process.returncode, out.decode(), err.decode()

    async def __call__(self, *arguments, stdin=None):
        """Standard output of a command that must succeed."""
        code, out, err = await self.run(*arguments, stdin=stdin)
        assert code == 0, f"docker {' '.join(arguments)}: {code}\n{out}\n{err}"
        return out

    async def fails(self, *arguments):
        """Standard error of a command that must fail."""
        code, out, err = await self.run(*arguments)
        assert code != 0, f"docker {' '.join(arguments)} did not fail:\n{out}\n{err}"
        return err


@pytest.fixture
async def api():
    """A served API, with an orchestrator that brings every task to running."""
    async with served() as running, running.orchestrator.running():
        yield running


@pytest.fixture(
    params=docker_clis() or [pytest.param("", marks=pytest.mark.skip(reason="there is no docker CLI"))]
)
def docker_binary(request):
    return request.param


@pytest.fixture
async def docker(docker_binary, api, tmp_path):
    return DockerCli(docker_binary, api.socket, tmp_path)
