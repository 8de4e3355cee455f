"""The lab itself: that machines are what was asked, that faults are real, and that nothing is left behind."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from .labctl import CHECKOUT, COMMAND, Lab

pytestmark = pytest.mark.e2e

SUITES = {"n1": ("bullseye", "20.10", "3.9"), "n2": ("trixie", "26.1", "3.13"), "n3": ("forky", "28.5", "3.14")}
ADDRESS = {"n1": "10.98.0.11", "n2": "10.98.0.12", "n3": "10.98.0.13"}
ANSWERS = (
    "import socket, sys\n"
    "try:\n    socket.create_connection((sys.argv[1], 22), 2).recv(4)\n"
    "except OSError:\n    sys.exit(1)\n"
)


@pytest.fixture
def mended(lab: Lab) -> Iterator[None]:
    """Undo what a test did to the machines, also if it failed half-way."""
    yield
    for node in lab.status().nodes.values():
        if node.state == "frozen":
            lab.fault(node.name, "thaw")
        if node.faults:
            lab.fault(node.name, "heal")


@pytest.fixture
def other() -> Iterator[Lab]:
    """A second lab beside the first, gone afterwards whatever happened."""
    other = Lab(f"o{os.getpid()}")
    try:
        yield other
    finally:
        other.down()


def eventually(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)


def manager_reaches(lab: Lab, node: str) -> bool:
    return lab.call("run", "--", "python3", "-c", ANSWERS, ADDRESS[node], check=False).returncode == 0


def node_reaches(lab: Lab, node: str, target: str) -> bool:
    return lab.call("ssh", node, "--", "python3", "-c", ANSWERS, ADDRESS[target], check=False).returncode == 0


def traces(lab: Lab) -> list[str]:
    """What of a lab is left on this host: processes, namespaces, memory, sockets, files."""
    left = [
        str(path)
        for folder in ("/run/netns", "/dev/shm", "/run/swarmsh-lab")
        for path in Path(folder).glob(f"swl-{lab.name}-*")
    ]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if f"swl-{lab.name}-".encode() in command:
            left.append(f"{process.name}: {command.decode(errors='replace')[:80]}")
    return left + ([str(lab.directory)] if lab.directory.exists() else [])


# --- what is there ---
def test_machines_are_the_suites_dealt_and_all_of_use(lab: Lab) -> None:
    status = lab.status()
    assert {n.name: (n.suite, n.state, n.sshd, n.faults) for n in status.nodes.values()} == {
        name: (suite, "running", True, ()) for name, (suite, _, _) in SUITES.items()
    }
    for name, (_, engine, python) in SUITES.items():
        assert (status.nodes[name].engine or "").startswith(f"{engine}.")
        assert lab.ssh(name, "python3", "--version").startswith(f"Python {python}.")


def test_up_on_a_running_lab_changes_nothing(lab: Lab) -> None:
    before = lab.status()
    boots = {n: lab.ssh(n, "cat", "/proc/sys/kernel/random/boot_id") for n in ADDRESS}
    lab.up()
    assert lab.status() == before
    assert {n: lab.ssh(n, "cat", "/proc/sys/kernel/random/boot_id") for n in ADDRESS} == boots


def test_up_with_other_machines_is_refused(lab: Lab) -> None:
    refused = lab.up(nodes=2, check=False)
    assert refused.returncode == 1
    assert "exists with other machines" in refused.stderr
    assert "down" in refused.stderr


def test_the_inventory_opens_every_machine_and_pins_its_key(lab: Lab) -> None:
    hosts = yaml.safe_load(lab.inventory.read_text())["all"]["hosts"]
    assert list(hosts) == list(ADDRESS)
    for name, host in hosts.items():
        assert host["ansible_host"] == ADDRESS[name]
        assert host["swarmsh_labels"] == {"suite": SUITES[name][0]}
        assert Path(host["ansible_ssh_private_key_file"]).stat().st_mode & 0o777 == 0o600
        assert (
            lab.ssh(name, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
            == host["swarmsh_host_key"]
        )
    assert len({host["swarmsh_host_key"] for host in hosts.values()}) == len(hosts)


def test_an_ordinary_user_with_sudo_can_log_in(lab: Lab) -> None:
    key = str(lab.directory / "id_ed25519")
    who = lab.run(
        "ssh",
        "-F",
        "none",
        "-i",
        key,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "LogLevel=ERROR",
        "-o",
        "UserKnownHostsFile=/dev/null",
        f"ops@{ADDRESS['n2']}",
        "id -un; sudo -n id -un",
    )
    assert who.split() == ["ops", "root"]


def test_ssh_hands_on_exit_code_streams_and_exact_arguments(lab: Lab) -> None:
    done = lab.call(
        "ssh",
        "n1",
        "--",
        "sh",
        "-c",
        'echo "$1"; echo err >&2; cat; exit 7',
        "sh",
        "a  b*",
        check=False,
        stdin="fed",
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "a  b*\nfed", "err\n")


def test_run_keeps_folder_user_and_signals(lab: Lab, tmp_path: Path) -> None:
    with lab.popen(
        "sh",
        "-c",
        'trap "echo got; exit 9" TERM; pwd; id -u; echo $$; while :; do sleep 0.1; done',
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode().strip() for _ in range(3)]
        assert lines == [str(tmp_path), str(os.getuid()), str(process.pid)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 9
    assert lab.call("run", "--", "no-such-command", check=False).returncode == 127


def test_nothing_is_routed_out_of_the_lab(lab: Lab) -> None:
    links = lab.run("ip", "-o", "link").splitlines()
    assert {line.split(":")[1].strip().split("@")[0] for line in links} == {
        "lo",
        "br0",
        "adm0",
        "tap1",
        "tap2",
        "tap3",
    }
    assert "default" not in lab.run("ip", "route")


# --- images ---
def test_the_web_image_serves_and_is_told_how_to_fail(lab: Lab) -> None:
    lab.ssh(
        "n2",
        "docker run -d --name w1 -p 80:80 -p 53:53/udp --health-cmd /probe --health-interval 1s "
        "-e UNHEALTHY_AFTER=4 --memory 64m --cpus 0.5 web:2",
    )
    try:
        url = f"http://{ADDRESS['n2']}"
        eventually(lambda: "version=2" in lab.run("curl", "-s", url, check=False), "web answers")
        answer = dict(line.split("=", 1) for line in lab.run("curl", "-s", url).splitlines())
        assert answer["client"].startswith("10.98.0.1:")
        assert answer["hostname"] == lab.ssh("n2", "docker exec w1 hostname").strip()
        assert int(answer["served"]) >= 2
        assert lab.ssh("n2", "docker exec w1 cat /sys/fs/cgroup/memory.max").strip() == str(64 << 20)
        asked = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); "
            f"s.sendto(b'hello', ('{ADDRESS['n2']}', 53)); print(s.recv(2000).decode())"
        )
        assert "echo=hello" in lab.run("python3", "-c", asked)
        health = "docker inspect --format '{{.State.Health.Status}}' w1"
        eventually(lambda: lab.ssh("n2", health).strip() == "unhealthy", "UNHEALTHY_AFTER is seen by the Engine")
        lab.ssh("n2", "docker stop -t 30 w1")
        ended = lab.ssh("n2", "docker inspect --format '{{.State.ExitCode}}' w1").strip()
        assert ended == "0", "by SIGTERM, not by the SIGKILL (137) after the grace period"
    finally:
        lab.ssh("n2", "docker rm -f w1")


def test_images_are_loaded_from_a_file_system_and_from_a_saved_image(lab: Lab, tmp_path: Path) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(tarfile.TarInfo("hello"), io.BytesIO(b""))
    lab.image("fromfiles:1", layer, "n1", "n3")
    saved = tmp_path / "saved.tar"
    with saved.open("wb") as file:
        subprocess.run(
            [COMMAND, "ssh", f"--name={lab.name}", "n1", "docker save fromfiles:1"],
            stdout=file,
            check=True,
            timeout=60,
        )
    lab.image("fromfiles:1", saved, "n2")
    lab.image("another:7", saved, "n2")
    ids = {node: lab.ssh(node, "docker image inspect --format '{{.Id}}' fromfiles:1") for node in ADDRESS}
    assert ids["n1"] == ids["n2"] == lab.ssh("n2", "docker image inspect --format '{{.Id}}' another:7")
    for node in ADDRESS:
        lab.ssh(node, "docker rmi $(docker images -q fromfiles:1) --force")


def test_the_registry_serves_every_machine(lab: Lab) -> None:
    lab.up(registry=True)
    registry = lab.status().registry
    assert registry == "10.98.0.1:5000"
    lab.ssh("n1", f"docker pull -q {registry}/web:2 && docker rmi {registry}/web:2", timeout_s=120)
    assert '"nginx"' in lab.run("curl", "-s", f"http://{registry}/v2/_catalog")


def test_up_changes_the_login_of_a_registry_that_runs(lab: Lab) -> None:
    def catalog(*options: str) -> str:
        return lab.run("curl", "-sS", *options, "http://10.98.0.1:5000/v2/_catalog")

    lab.up(registry_auth="joe:a word")
    try:
        assert "UNAUTHORIZED" in catalog()
        assert '"nginx"' in catalog("--user", "joe:a word")
    finally:
        lab.up(registry_auth="")
    assert '"nginx"' in catalog()


@pytest.mark.parametrize(("suite", "version"), [("bullseye", "20.10."), ("trixie", "26.1."), ("forky", "28.5.")])
def test_docker_clients_of_the_suites_run_on_this_host(lab: Lab, suite: str, version: str) -> None:
    told = subprocess.run(
        [lab.docker_cli(suite), "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert f"version {version}" in told.stdout


# --- faults of the network ---
@pytest.mark.usefixtures("mended")
def test_cut_separates_a_machine_from_all_but_the_lab(lab: Lab) -> None:
    lab.fault("n2", "cut")
    assert not manager_reaches(lab, "n2")
    assert not node_reaches(lab, "n1", "n2")
    assert not node_reaches(lab, "n2", "n3")
    assert manager_reaches(lab, "n1")
    assert node_reaches(lab, "n1", "n3")
    assert lab.status().nodes["n2"].faults == ("cut",)
    lab.fault("n2", "heal")
    assert manager_reaches(lab, "n2")
    assert node_reaches(lab, "n1", "n2")


@pytest.mark.usefixtures("mended")
def test_cut_pair_separates_just_two_machines(lab: Lab) -> None:
    lab.fault("cut-pair", "n1", "n2")
    lab.ssh("n1", f"ip neigh del {ADDRESS['n2']} dev vec0; true")  # ARP does not get through either
    assert not node_reaches(lab, "n1", "n2")
    assert not node_reaches(lab, "n2", "n1")
    assert node_reaches(lab, "n1", "n3")
    assert node_reaches(lab, "n2", "n3")
    assert manager_reaches(lab, "n1")
    lab.fault("heal-pair", "n2", "n1")
    assert node_reaches(lab, "n1", "n2")


@pytest.mark.usefixtures("mended")
def test_cut_manager_leaves_the_machines_to_each_other(lab: Lab) -> None:
    lab.fault("cut-manager", "n3")
    assert not manager_reaches(lab, "n3")
    assert manager_reaches(lab, "n1")
    assert node_reaches(lab, "n1", "n3")
    lab.fault("heal-manager", "n3")
    assert manager_reaches(lab, "n3")


@pytest.mark.usefixtures("mended")
def test_a_slow_link_delays_what_the_machine_sends(lab: Lab) -> None:
    def best_ms() -> float:
        return float(lab.ssh("n1", f"ping -q -c 8 -i 0.2 {ADDRESS['n2']} | sed -n 's,.*= \\([0-9.]*\\)/.*,\\1,p'"))

    lab.fault("n2", "slow")
    assert best_ms() >= 60
    assert lab.status().nodes["n2"].faults == ("slow",)
    lab.fault("n2", "heal")
    assert best_ms() < 60


# --- faults of machines ---
@pytest.mark.usefixtures("mended")
def test_a_frozen_machine_keeps_its_memory_and_says_nothing(lab: Lab) -> None:
    boot = lab.ssh("n2", "cat /proc/sys/kernel/random/boot_id; echo kept > /run/mark")
    lab.fault("n2", "freeze")
    assert lab.status().nodes["n2"].state == "frozen"
    assert not manager_reaches(lab, "n2")
    assert "frozen" in lab.call("ssh", "n2", "--", "true", check=False).stderr
    lab.fault("n2", "thaw")
    eventually(lambda: manager_reaches(lab, "n2"), "n2 answers again")
    assert lab.ssh("n2", "cat /proc/sys/kernel/random/boot_id; cat /run/mark") == f"{boot}kept\n"


def test_a_hung_engine_answers_nobody_while_its_containers_run(lab: Lab) -> None:
    lab.ssh("n1", "docker run -d --name w2 -p 81:80 web")
    lab.fault("n1", "hang-engine")
    try:
        assert lab.status().nodes["n1"].engine is None
        eventually(
            lambda: "version=1" in lab.run("curl", "-s", f"http://{ADDRESS['n1']}:81", check=False), "web answers"
        )
    finally:
        lab.fault("n1", "resume-engine")
    eventually(lambda: lab.status().nodes["n1"].engine is not None, "the Engine answers")
    lab.ssh("n1", "docker rm -f w2")


def test_an_impostor_has_another_host_key(lab: Lab) -> None:
    pinned = yaml.safe_load(lab.inventory.read_text())["all"]["hosts"]["n3"]["swarmsh_host_key"]

    def shown() -> str:
        return lab.run(
            "sh", "-c", f"ssh-keyscan -t ed25519 {ADDRESS['n3']} 2>/dev/null | ssh-keygen -lf -"
        ).split()[1]

    assert shown() == pinned
    lab.fault("n3", "new-host-key")
    assert shown() != pinned
    lab.up()
    assert yaml.safe_load(lab.inventory.read_text())["all"]["hosts"]["n3"]["swarmsh_host_key"] == pinned
    lab.fault("n3", "old-host-key")
    assert shown() == pinned


def test_power_cut_and_reboot_are_real(lab: Lab) -> None:
    """Both at once, on two machines: booting is what costs time here."""
    for node in ("n2", "n3"):
        lab.ssh(node, "echo saved > /root/mark; sync; echo lost > /run/mark")
    pid = lab.status().nodes["n2"].pid
    assert pid is not None
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    assert len(members_of(namespace)) > 5
    lab.fault("n2", "power-off")
    assert members_of(namespace) == [], "every process of the machine is gone"
    assert lab.status().nodes["n2"].state == "off"
    assert not node_reaches(lab, "n1", "n2")
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(lab.fault, "n2", "power-on", "--wait"),
            pool.submit(lab.fault, "n3", "reboot", "--wait"),
        ]:
            done.result()
    for node in ("n2", "n3"):
        assert lab.ssh(node, "cat /root/mark; test -e /run/mark || echo gone") == "saved\ngone\n"
        assert node_reaches(lab, "n1", node)


def members_of(namespace: str) -> list[str]:
    """Processes of this host that live in a process namespace, without zombies that wait to be reaped."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "ns/pid") == namespace and ") Z " not in (process / "stat").read_text():
                found.append(process.name)
        except OSError:
            continue  # it has just ended
    return found


# --- several labs, and their end ---
def test_a_killed_up_leaves_nothing_after_down_and_disturbs_no_other_lab(lab: Lab, other: Lab) -> None:
    first = other.call("run", "--", "true", check=False)
    assert first.returncode == 1
    assert "Is the lab up?" in first.stderr
    up = subprocess.Popen(
        [COMMAND, "up", f"--name={other.name}", "--nodes=1", "--suite=bullseye"], stderr=subprocess.DEVNULL
    )
    eventually(lambda: (other.directory / "n1/console.log").exists() or up.poll() is not None, "a boot", 900)
    up.kill()
    up.wait(10)
    status = other.status()
    assert status.nodes["n1"].state == "running"
    assert status.nodes["n1"].address == ADDRESS["n1"]  # the same address as in the other lab
    assert manager_reaches(lab, "n1")
    assert len(traces(other)) > 4

    # The kernel of a broken machine ends, or never gets to sshd: `up` says so with its last words.
    other.fault("n1", "power-off")
    (other.directory / "n1/disk.cow").write_bytes(b"no disk at all")
    broken = other.up(nodes=1, suite="bullseye", check=False)
    assert broken.returncode == 1
    assert "did not boot" in broken.stderr
    assert "console ends with" in broken.stderr

    shutil.rmtree(other.directory)  # what runs is found without it
    other.down()
    assert traces(other) == []
    assert manager_reaches(lab, "n1")
    other.down()  # nothing to do is no error


def test_names_and_faults_that_do_not_exist_are_told(lab: Lab) -> None:
    for words, told in (
        (("ssh", "n9"), "no machine n9"),
        (("fault", "n1", "melt"), "power-off"),
        (("fault", "cut-pair", "n1", "n1"), "two machines"),
        (("image", "a", "/none.tar"), "no such file"),
    ):
        done = lab.call(words[0], *words[1:], check=False)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr
        assert "Traceback" not in done.stderr


# --- the other way to the same cluster ---
def test_the_vagrantfile_is_valid(tmp_path: Path) -> None:
    if shutil.which("vagrant") is None:
        subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", "vagrant"],
            check=True,
            timeout=600,
            capture_output=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=CHECKOUT / "vagrant",
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "VAGRANT_HOME": str(tmp_path), "VAGRANT_DOTFILE_PATH": str(tmp_path / "d")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
