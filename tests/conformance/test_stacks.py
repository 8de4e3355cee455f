"""Stacks by the docker CLI and by ours, on one cluster: what one deploys, the other lists, changes, removes."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest

from tests.conformance.conftest import DockerCli

FILE = """
version: "3.8"
services:
  web:
    image: web:1
    ports: ["8080:80"]
    networks: [front]
    configs: [conf]
    deploy: {replicas: 2}
  db:
    image: db:1
    networks: [front]
    secrets:
      - source: pw
        target: db-password
        mode: 0400
networks:
  front: {}
secrets:
  pw: {file: ./pw.txt}
configs:
  conf: {file: ./web.conf}
"""


class Swarmsh(DockerCli):
    """Our command line, as another client of the same socket."""

    def _environment(self):
        return {
            **super()._environment(),
            "SWARMSH_HOST": f"unix://{self.socket}",
            "PYTHONPATH": os.getcwd(),
            "COLUMNS": "200",
        }

    async def start(self, *arguments, **how):
        return await super().start("-m", "swarmsh", *arguments, **how)


@pytest.fixture
def swarmsh(api, tmp_path):
    return Swarmsh(sys.executable, api.socket, tmp_path)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "pw.txt").write_text("hunter2")
    (tmp_path / "web.conf").write_text("listen 80")
    compose = tmp_path / "stack.yml"
    compose.write_text(FILE)
    return compose


def actions(out):
    return {part["Name"]: part["Action"] for part in json.loads(out)["Parts"]}


# --- the docker CLI -----------------------------------------------------------------------------------------
async def test_a_stack_with_secrets_and_configs_is_deployed_listed_and_removed(docker, api, files):
    out = await docker("stack", "deploy", "-c", str(files), "shop")
    for line in (
        "Creating network shop_front",
        "Creating secret shop_pw",
        "Creating config shop_conf",
        "Creating service shop_web",
        "Creating service shop_db",
    ):
        assert line in out
    assert re.search(r"shop\s+2", await docker("stack", "ls"))
    assert "shop_web.2" in await docker("stack", "ps", "shop")
    listed = await docker("stack", "services", "--format", "{{.Name}} {{.Replicas}} {{.Image}}", "shop")
    assert sorted(listed.split("\n")) == ["", "shop_db 1/1 db:1", "shop_web 2/2 web:1"]
    spec = json.loads(await docker("service", "inspect", "shop_db"))[0]["Spec"]
    (secret,) = spec["TaskTemplate"]["ContainerSpec"]["Secrets"]
    assert secret["SecretName"] == "shop_pw"
    assert secret["File"] == {"Name": "db-password", "UID": "0", "GID": "0", "Mode": 0o400}
    out = await docker("stack", "rm", "shop")
    assert "Removing secret shop_pw" in out
    assert "Removing network shop_front" in out
    await docker("stack", "deploy", "-c", str(files), "shop")  # at once: nothing of the old one is in the way


async def test_a_second_deploy_replaces_no_task(docker, api, files):
    await docker("stack", "deploy", "-c", str(files), "shop")
    versions = {s.spec.name: s.spec_version for s in api.store.snapshot.services.values()}
    await docker("stack", "deploy", "-c", str(files), "shop")
    assert {s.spec.name: s.spec_version for s in api.store.snapshot.services.values()} == versions


async def test_changed_contents_are_refused_in_dockers_words(docker, files, tmp_path):
    await docker("stack", "deploy", "-c", str(files), "shop")
    (tmp_path / "pw.txt").write_text("correct horse")
    error = await docker.fails("stack", "deploy", "-c", str(files), "shop")
    assert "failed to update secret shop_pw" in error
    assert "only updates to Labels are allowed" in error


async def test_prune_removes_services_that_left_the_file(docker, files):
    await docker("stack", "deploy", "-c", str(files), "shop")
    files.write_text(FILE.replace("  db:\n    image: db:1", "  cache:\n    image: db:1"))
    out = await docker("stack", "deploy", "--prune", "-c", str(files), "shop")
    assert "Removing service shop_db" in out
    assert "shop_db" not in await docker("service", "ls")


async def test_an_external_secret_that_is_missing_is_named(docker, files):
    files.write_text(FILE.replace("pw: {file: ./pw.txt}", "pw: {external: true, name: psql-pw}"))
    assert "psql-pw" in await docker.fails("stack", "deploy", "-c", str(files), "shop")


async def test_stack_config_prints_what_it_read(docker, files):
    code, out, error = await docker.run("stack", "config", "-c", str(files))
    if code != 0 and ("unknown" in error or "config" in error):
        pytest.skip("this CLI has no stack config")
    assert "image: web:1" in out


# --- ours ---------------------------------------------------------------------------------------------------
async def test_what_docker_deployed_ours_plans_lists_and_takes_over(docker, swarmsh, files):
    await docker("stack", "deploy", "-c", str(files), "shop")
    listed = json.loads(await swarmsh("stack", "ls", "-o", "json"))
    assert listed[0] | {"ID": "shop"} == {
        **{"ID": "shop", "Name": "shop", "Services": 2, "Networks": 1, "Secrets": 1, "Configs": 1},
        **{"TasksLeft": 3, "Leaving": []},
    }
    assert "shop_web.2" in await swarmsh("stack", "ps", "shop")
    assert "shop_db" in await swarmsh("stack", "services", "shop")
    code, out, error = await swarmsh.run("stack", "plan", "-c", str(files), "shop", "-o", "json")
    assert code == 0, out + error
    assert set(actions(out).values()) == {"unchanged"}


async def test_deploy_change_history_rollback_and_remove(docker, swarmsh, api, files, tmp_path):
    deploy = ("stack", "deploy", "-c", str(files), "-y", "-d", "shop")
    out = await swarmsh(*deploy)
    assert "shop: create; 1 network created, 1 secret created, 1 config created, 2 services created" in out
    assert "shop: revision 1" in out
    assert (await swarmsh(*deploy)).strip() == "shop: nothing to do"
    # Docker's CLI finds the stack as its own.
    assert re.search(r"shop\s+2", await docker("stack", "ls"))
    (tmp_path / "pw.txt").write_text("correct horse")
    files.write_text(FILE.replace("web:1", "web:2"))
    code, out, _ = await swarmsh.run("stack", "plan", "-c", str(files), "shop")
    assert code == 3
    assert "TaskTemplate.ContainerSpec.Image: web:1 -> web:2" in out
    assert "~ secret shop_pw (new contents: 7 -> 13 bytes)" in out
    assert "horse" not in out and "hunter2" not in out
    await swarmsh(*deploy)
    history = json.loads(await swarmsh("stack", "history", "shop", "-o", "json"))
    assert [revision["Number"] for revision in history] == [2, 1]
    assert "web:1 -> web:2" in await swarmsh("stack", "diff", "shop", "1")
    out = await swarmsh("stack", "rollback", "shop", "--to", "1", "-y", "-d")
    assert "shop: revision 3" in out
    spec = json.loads(await docker("service", "inspect", "shop_web"))[0]["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Image"] == "web:1"
    assert await api.store.secret_data(api.store.snapshot.secret_ids["shop_pw"]) == b"hunter2"
    out = await swarmsh("stack", "rm", "shop")
    assert "2 services removed" in out
    assert json.loads(await swarmsh("stack", "ls", "-o", "json")) == []
    assert (await swarmsh(*deploy)).endswith("shop: revision 1\n")


async def test_deploy_waits_until_the_services_converged(swarmsh, files):
    files.write_text(FILE.replace("deploy: {replicas: 2}", "deploy: {replicas: 2, update_config: {monitor: 1s}}"))
    code, _, error = await swarmsh.run("stack", "deploy", "-c", str(files), "-y", "shop")
    assert code == 0, error
    assert "shop_web: 2 of 2 running, converged" in error
    assert "shop_db: 1 of 1 running, converged" in error


async def test_prune_and_leftovers(swarmsh, files):
    await swarmsh("stack", "deploy", "-c", str(files), "-y", "-d", "shop")
    less = FILE.replace("  db:\n    image: db:1\n    networks: [front]\n    secrets:\n", "  #\n")
    less = re.sub(r"      - source: pw\n.*\n.*\n", "", less).replace("secrets:\n  pw: {file: ./pw.txt}\n", "")
    files.write_text(less)
    plan = ("stack", "plan", "-c", str(files), "shop", "-o", "json")
    code, out, error = await swarmsh.run(*plan)
    assert (code, actions(out)["shop_db"]) == (0, "leftover"), error
    code, out, _ = await swarmsh.run(*plan, "--prune")
    assert (code, actions(out)["shop_db"], actions(out)["shop_pw"]) == (3, "remove", "remove")
    await swarmsh("stack", "deploy", "-c", str(files), "-y", "-d", "--prune", "shop")
    assert "shop_db" not in await swarmsh("service", "ls")


async def test_nobody_is_asked_where_there_is_no_terminal(swarmsh, files):
    code, _, error = await swarmsh.run("stack", "deploy", "-c", str(files), "shop")
    assert code == 2
    assert "--yes" in error
    assert "shop" not in await swarmsh("stack", "ls")


async def test_errors_and_names(swarmsh, files):
    code, _, error = await swarmsh.run("stack", "plan", "-c", str(files))
    assert code == 1 and "the stack has no name" in error
    files.write_text("name: shop\nservices:\n  web:\n    imagee: web:1\n")
    code, _, error = await swarmsh.run("stack", "plan", "-c", str(files))
    assert code == 1
    assert f"{files}:4:" in error and "imagee" in error
    assert "nothing found in stack: none" in await swarmsh.fails("stack", "ps", "none")
    assert "nothing found in stack: none" in await swarmsh.fails("stack", "rm", "none")
    files.write_text("name: shop\nservices:\n  web: {image: 'web:1'}\n")
    assert "image: web:1" in await swarmsh("stack", "config", "-c", str(files))
    assert json.loads(await swarmsh("stack", "config", "-c", str(files), "-o", "json"))["name"] == "shop"
    await swarmsh("stack", "deploy", "-c", str(files), "-y", "-d")
    assert "shop_web" in await swarmsh("stack", "services", "shop")
