"""Stacks on real machines: nginx, an application and PostgreSQL, by the docker CLI and by swarmsh.

The images are made of Debian packages and pulled from the lab's registry: `nginx`; `postgres`, which reads
POSTGRES_USER and POSTGRES_PASSWORD_FILE and keeps its data in /var/lib/postgresql/data; and `python-pg`, Python
with psycopg2. The application itself is a config of the stack.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .labctl import Lab
from .swarm import SWARMSH, Swarm
from .test_networks import addresses

pytestmark = pytest.mark.e2e

PASSWORD = "s3cret-of-the-database"
PORT = 8088
DEPLOY_S = 600.0

APP = """
import http.server, os, psycopg2
password = open("/run/secrets/pw").read()
VERSION = os.environ["VERSION"]

def ask(sql, *values):
    with psycopg2.connect(host="db", user="shop", dbname="shop", password=password) as link, link.cursor() as at:
        at.execute("CREATE TABLE IF NOT EXISTS notes (text text)")
        at.execute(sql, values)
        return at.fetchall() if at.description else []

class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/write/"):
            ask("INSERT INTO notes VALUES (%s)", self.path[len("/write/"):])
        notes = [text for text, in ask("SELECT text FROM notes")]
        body = ("version=" + VERSION + " notes=" + ",".join(notes) + "\\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 8000), Site).serve_forever()
"""
NGINX = "server { listen 80; location / { proxy_pass http://app:8000; } }\n"
FILE = """
version: "3.8"
services:
  web:
    image: REGISTRY/nginx
    ports: ["8088:80"]
    networks: [front]
    configs: [{source: nginx, target: /etc/nginx/conf.d/default.conf}]
    deploy: {replicas: 2}
  app:
    image: REGISTRY/python-pg
    command: [python3, /app.py]
    environment: {VERSION: "1"}
    networks: [front, back]
    secrets: [pw]
    configs: [{source: app, target: /app.py}]
    deploy:
      labels: {swarmsh.depends-on: "db:healthy", swarmsh.probe: "tcp:8000"}
      update_config: {monitor: 1s}
  db:
    image: REGISTRY/postgres
    environment: {POSTGRES_USER: shop, POSTGRES_PASSWORD_FILE: /run/secrets/pw}
    networks: [back]
    secrets: [pw]
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: {test: [CMD, pg_isready, -U, shop], interval: 2s, start_period: 120s}
    deploy: {placement: {constraints: [node.hostname == n2]}}
networks:
  front: {}
  back: {internal: true, driver_opts: {encrypted: ""}}
volumes:
  data: {}
secrets:
  pw: {file: ./pw.txt}
configs:
  nginx: {file: ./nginx.conf}
  app: {file: ./app.py}
"""


@pytest.fixture(scope="module")
def registry(lab: Lab) -> str:
    lab.up(registry=True)
    found = lab.status().registry
    assert found
    return found


class Shop:
    """The stack's files, and the two command lines that deploy them."""

    def __init__(self, swarm: Swarm, directory: Path, registry: str) -> None:
        self.swarm, self.directory, self.registry = swarm, directory, registry
        self.write("pw.txt", PASSWORD)
        self.write("nginx.conf", NGINX)
        self.write("app.py", APP)
        self.file()

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def file(self, change: Callable[[str], str] = lambda text: text) -> str:
        self.write("stack.yml", change(FILE).replace("REGISTRY", self.registry))
        return str(self.directory / "stack.yml")

    def by_docker(self, *options: str, suite: str = "forky") -> str:
        file = str(self.directory / "stack.yml")
        return self.swarm.docker("stack", "deploy", *options, "-c", file, "shop", suite=suite, timeout=DEPLOY_S)

    def deploy(self, *options: str) -> str:
        file = str(self.directory / "stack.yml")
        return self.swarm.swarmsh("stack", "deploy", "-y", *options, "-c", file, "shop", timeout=DEPLOY_S)

    def specs(self) -> dict[str, object]:
        """Of its services by name, without ids of what they refer to."""
        text = json.dumps({s["Spec"]["Name"]: s["Spec"] for s in self.swarm.get("/services")}, sort_keys=True)
        found: dict[str, object] = json.loads(re.sub(r'"(Target|SecretID|ConfigID)": "[a-z0-9]{25}"', '""', text))
        return found

    def site(self, path: str = "/", node: str = "n1") -> str:
        """What the site answers at any node, from the lab's network."""
        address = addresses(self.swarm.lab)[node]
        done = self.swarm.lab.run("curl", "-sS", "--max-time", "20", f"http://{address}:{PORT}{path}")
        return str(done.stdout)

    def answers(self, words: str) -> None:
        self.swarm.wait(
            lambda: all(words in self.site(node=n) for n in ("n1", "n2", "n3")), f"{words} of the site"
        )

    def left(self) -> list[str]:
        """Containers of the stack on any machine, those that ended too."""
        command = "docker ps -aq --filter label=com.docker.stack.namespace=shop"
        return [word for node in ("n1", "n2", "n3") for word in self.swarm.ssh(node, command).split()]


@pytest.fixture
def shop(swarm: Swarm, registry: str, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(swarm, tmp_path, registry)
    yield made
    swarm.swarmsh("stack", "rm", "shop", check=False)
    swarm.clear()
    swarm.ssh("n2", "docker volume rm -f shop_data", check=False)


def test_both_command_lines_make_the_same_site_and_its_data_outlives_an_update(shop: Shop) -> None:
    shop.by_docker()
    shop.answers("version=1")
    first = shop.specs()
    shop.site("/write/by-docker")
    shop.answers("notes=by-docker")
    shop.swarm.swarmsh("stack", "rm", "shop")
    assert shop.left() == []

    shop.deploy()
    assert shop.specs() == first
    shop.answers("notes=by-docker")  # the volume stayed
    shop.site("/write/by-swarmsh")
    shop.file(lambda text: text.replace('VERSION: "1"', 'VERSION: "2"'))
    before = {t["ID"] for name in ("shop_db", "shop_web") for t in shop.swarm.running(name)}
    shop.deploy()
    shop.answers("version=2 notes=by-docker,by-swarmsh")
    assert {t["ID"] for name in ("shop_db", "shop_web") for t in shop.swarm.running(name)} == before


def test_the_application_starts_when_the_database_is_healthy(shop: Shop) -> None:
    shop.deploy()
    (db,), (app,) = shop.swarm.running("shop_db"), shop.swarm.running("shop_app")
    assert app["Status"]["Timestamp"] > db["Status"]["Timestamp"]
    assert not [t for t in shop.swarm.tasks("shop_app") if t["Status"]["State"] == "failed"]


def test_a_second_deploy_touches_nothing_and_takes_no_second(shop: Shop) -> None:
    shop.deploy()
    index = shop.swarm.get("/swarmsh/status")["index"]
    began = time.monotonic()
    assert "shop: nothing to do" in shop.deploy()
    print(f"second deploy: {time.monotonic() - began:.2f} s")
    assert shop.swarm.get("/swarmsh/status")["index"] == index


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "forky"])
def test_a_stack_is_gone_when_rm_returns_and_may_be_deployed_at_once(shop: Shop, suite: str) -> None:
    shop.by_docker(suite=suite)
    shop.answers("version=1")
    shop.swarm.docker("stack", "rm", "shop", suite=suite)
    shop.by_docker(suite=suite)  # at once: the old tasks are being stopped yet
    shop.answers("version=1")
    shop.swarm.swarmsh("stack", "rm", "shop")
    assert shop.left() == []
    assert not [n for n in shop.swarm.get("/networks") if n["Name"].startswith("shop_")]
    assert shop.swarm.get("/secrets") == []
    for node in ("n1", "n2", "n3"):
        assert shop.swarm.ssh(node, "docker network ls -q --filter name=shop_").strip() == ""
    shop.deploy()
    shop.answers("version=1")


def test_a_rollback_brings_services_secrets_and_configs_back_together(shop: Shop) -> None:
    shop.deploy()
    shop.write("pw.txt", "another password")
    shop.write("nginx.conf", NGINX.replace("location /", "location /elsewhere/"))
    shop.file(lambda text: text.replace('VERSION: "1"', 'VERSION: "2"'))
    plan = shop.swarm.run(
        *(SWARMSH, "stack", "plan", "-c", str(shop.directory / "stack.yml"), "shop"), timeout=DEPLOY_S
    )
    assert plan.returncode == 3 and "another password" not in plan.stdout
    shop.deploy("-d")
    shop.swarm.swarmsh("stack", "rollback", "shop", "--to", "1", "-y", timeout=DEPLOY_S)
    shop.answers("version=1")
    history = json.loads(shop.swarm.swarmsh("stack", "history", "shop", "-o", "json"))
    assert [revision["Action"] for revision in history] == ["rollback to 1", "deploy", "deploy"]


def test_prune_removes_all_that_left_the_file_when_nothing_uses_it_any_more(shop: Shop) -> None:
    shop.deploy()
    shop.file(lambda text: re.sub(r"  (app|db):\n(    .*\n)+", "", text).replace("proxy_pass", "return 200 #"))
    shop.write("nginx.conf", "server { listen 80; location / { return 200 'alone'; } }\n")
    shop.deploy("--prune")
    shop.answers("alone")
    swarm = shop.swarm
    swarm.wait(lambda: "shop_back" not in swarm.swarmsh("network", "ls"), "network shop_back pruned")
    assert [s["Spec"]["Name"] for s in swarm.get("/services")] == ["shop_web"]


def test_waiting_goes_on_after_the_manager_was_killed(shop: Shop) -> None:
    shop.file(lambda text: text.replace("pg_isready, -U, shop", "test, -e, /tmp/go"))
    shop.deploy("-d")
    swarm = shop.swarm
    swarm.wait(lambda: any(t["Status"]["State"] == "ready" for t in swarm.tasks("shop_app")), "app waits")
    swarm.kill()
    swarm.start()
    assert not swarm.running("shop_app")
    assert "waits for shop_db to be ready" in swarm.swarmsh("why", "shop_app")
    swarm.ssh("n2", "docker exec $(docker ps -q --filter name=shop_db) touch /tmp/go")
    swarm.wait_running("shop_app", 1)


def test_names_of_another_stack_are_not_answered(shop: Shop, tmp_path: Path) -> None:
    other = tmp_path / "other.yml"
    other.write_text(f'services: {{web: {{image: "web:1"}}}}\nx-registry: {shop.registry}\n')
    shop.deploy()
    shop.swarm.swarmsh("stack", "deploy", "-y", "-c", str(other), "other", timeout=DEPLOY_S)
    done = shop.swarm.run(SWARMSH, "service", "exec", "other_web", "--", "nslookup", "db")
    assert done.returncode != 0
    shop.swarm.swarmsh("stack", "rm", "other")
