"""Dialling: pins, logins, jump hosts, and the words for each failure."""
# ruff: noqa: ASYNC221, ASYNC240 (preparing files and keys may block)

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from pathlib import Path

import asyncssh
import pytest

from swarmsh.adapters.ssh import DialLimits, Identities, SshDialer, known_host_keys
from swarmsh.errors import NodeUnreachable, NodeUntrusted
from swarmsh.model.objects import SshTarget
from tests.component.conftest import eventually
from tests.component.ssh_server import run_locally


async def run(
    dialer: SshDialer, target: SshTarget, command: str, given: bytes = b""
) -> tuple[bytes, str, int | None]:
    link = await dialer.connect(target)
    out, ended = bytearray(), asyncio.Event()
    try:
        channel = await link.exec(command, out.extend, ended.set)
        channel.send(given)
        channel.send_eof()
        await asyncio.wait_for(ended.wait(), 10)
        return bytes(out), channel.stderr, channel.exit_status
    finally:
        await link.close()


async def test_a_command_runs_with_binary_streams(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    data = bytes(range(256)) * 5000
    assert await run(dialer, server.target(key_file), "cat; echo oops >&2; exit 3", data) == (data, "oops", 3)


async def test_the_cipher_is_the_cheap_one_and_nothing_is_compressed(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    link = await dialer.connect(server.target(key_file))
    info = link.connection.get_extra_info
    assert info("send_cipher") == "aes128-gcm@openssh.com"
    assert info("recv_compression") == "none"
    await link.close()


# --- pins ---------------------------------------------------------------------------------------------------
async def test_a_wrong_host_key_is_refused_before_authentication(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    pin = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    with pytest.raises(NodeUntrusted, match="nothing was sent") as e:
        await dialer.connect(server.target(key_file, host_keys=(pin,)))
    assert e.value.fields["shown"] == server.host_key.get_fingerprint()
    assert e.value.fields["pinned"] == (pin,)
    assert server.users_seen == []


async def test_without_a_pin_nothing_is_trusted(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    with pytest.raises(NodeUntrusted, match="has no pinned host key") as e:
        await dialer.connect(server.target(key_file, host_keys=()))
    assert e.value.fields["shown"] == server.host_key.get_fingerprint()
    assert server.users_seen == []


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
@pytest.mark.parametrize("whole", [True, False])
async def test_any_kind_of_key_can_be_pinned_whole_or_by_fingerprint(
    serve, dialer, key_file: Path, kind: str, whole: bool
) -> None:
    server = await serve(run_locally, host_key_kind=kind)
    line = server.host_key.export_public_key().decode().strip() + " root@n1"
    pin = line if whole else server.host_key.get_fingerprint()
    for _ in range(2):
        await (await dialer.connect(server.target(key_file, host_keys=(pin,)))).close()


@pytest.mark.parametrize("whole", [True, False])
async def test_the_pinned_key_may_be_another_than_the_one_shown_first(
    serve, dialer, key_file: Path, whole: bool
) -> None:
    server = await serve(run_locally)
    second = asyncssh.generate_private_key("ssh-rsa")
    await server.stop()
    server.more_host_keys = [second]
    await server.start()
    pin = second.export_public_key().decode() if whole else second.get_fingerprint()
    await (await dialer.connect(server.target(key_file, host_keys=(pin,)))).close()
    server.connections.clear()
    await (await dialer.connect(server.target(key_file, host_keys=(pin,)))).close()
    assert len(server.connections) == 1


async def test_one_of_several_pins_is_enough(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    other = asyncssh.generate_private_key("ssh-ed25519").get_fingerprint()
    pins = (other, server.host_key.get_fingerprint())
    await (await dialer.connect(server.target(key_file, host_keys=pins))).close()


async def test_a_host_key_can_be_fetched_to_be_shown(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    fingerprint, line = await dialer.fetch_host_key(server.target(key_file, host_keys=()))
    assert fingerprint == server.host_key.get_fingerprint()
    assert line == " ".join(server.host_key.export_public_key().decode().split()[:2])
    assert server.users_seen == []
    await (await dialer.connect(server.target(key_file, host_keys=(line,)))).close()


async def test_known_hosts_gives_the_keys_of_exactly_that_port(tmp_path: Path) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(4)]
    path = tmp_path / "known_hosts"
    path.write_text(
        f"n1,10.0.0.1 {keys[0]} comment\n[n1]:2222 {keys[1]}\n"
        f"@revoked n3 {keys[2]}\n# a comment\n*.lan {keys[3]}\n"
    )
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert await known_host_keys("n1", 22, path) == (keys[0],)
    assert await known_host_keys("10.0.0.1", 22, path) == (keys[0],)
    assert await known_host_keys("n1", 2222, path) == (keys[1],)
    assert await known_host_keys("n1", 2200, path) == ()
    assert await known_host_keys("n3", 22, path) == ()
    assert await known_host_keys("x.lan", 22, path) == (keys[3],)
    assert await known_host_keys("n1", 22, tmp_path / "none") == ()


# --- failures in words --------------------------------------------------------------------------------------
async def test_nothing_listens(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    await server.stop()
    with pytest.raises(NodeUnreachable, match=f"tester@127.0.0.1:{server.port} refused the connection"):
        await dialer.connect(server.target(key_file))


async def test_a_login_refused_names_user_and_keys(serve, dialer, tmp_path: Path) -> None:
    server = await serve(run_locally)
    other = tmp_path / "id_other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(other))
    with pytest.raises(NodeUnreachable, match=f"refused user tester; keys tried: {other}"):
        await dialer.connect(server.target(other))


async def test_a_missing_key_file(serve, dialer, tmp_path: Path) -> None:
    server = await serve(run_locally)
    with pytest.raises(NodeUnreachable, match="there is no key file"):
        await dialer.connect(server.target(tmp_path / "absent"))
    (tmp_path / "junk").write_text("hello")
    with pytest.raises(NodeUnreachable, match="is no private key"):
        await dialer.connect(server.target(tmp_path / "junk"))


async def test_no_key_at_all(serve, dialer, key_file: Path) -> None:
    server = await serve(run_locally)
    with pytest.raises(NodeUnreachable, match="there is no key to offer"):
        await dialer.connect(server.target(key_file, identity_files=()))


async def test_an_unknown_name(dialer, key_file: Path) -> None:
    target = SshTarget(address="no-such-host.invalid", identity_files=(str(key_file),), host_keys=("SHA256:x",))
    with pytest.raises(NodeUnreachable, match=r"the name no-such-host.invalid does not resolve"):
        await dialer.connect(target)


async def test_a_server_that_says_nothing(key_file: Path, identities: Identities) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = SshTarget(address="127.0.0.1", port=port, identity_files=(str(key_file),), host_keys=("SHA256:x",))
    dialer = SshDialer(limits=DialLimits(banner_s=0.3), identities=identities)
    with pytest.raises(NodeUnreachable, match=r"sent no SSH banner within 0\.3 s"):
        await dialer.connect(target)
    server.close()


@pytest.mark.parametrize("words", [b"", b"Exceeded MaxStartups\r\n"])
async def test_a_server_that_drops_the_first_connections_is_tried_again(
    serve, dialer, key_file: Path, words: bytes
) -> None:
    """sshd's MaxStartups, in front of a real server."""
    behind = await serve(run_locally)
    dropped = 0

    async def doorman(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dropped
        if dropped < drops:
            dropped += 1
            writer.write(words)
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", behind.port)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)

    door = await asyncio.start_server(doorman, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    drops = 2
    await (await dialer.connect(behind.target(key_file, port=port))).close()
    assert dropped == 2
    drops = 100
    with pytest.raises(NodeUnreachable, match=r"closed 4 connections before its SSH banner.*MaxStartups"):
        await dialer.connect(behind.target(key_file, port=port))
    door.close()


async def test_a_reset_in_the_key_exchange_is_no_last_word(dialer, key_file: Path) -> None:
    """sshd ends so what it has no host key for, if it left some of ours unread."""
    count = 0

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(b"SSH-2.0-Cut\r\n")
        await reader.readline()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    pin = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    target = SshTarget(
        address="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        identity_files=(str(key_file),),
        host_keys=(pin,),
    )
    with pytest.raises(NodeUnreachable, match="closed the connection during the login"):
        await dialer.connect(target)
    assert count == 2, "once for the pin's kind of key, once for all kinds"
    server.close()


async def test_hosts_that_are_away_do_not_hold_up_the_others(
    serve, key_file: Path, identities: Identities
) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    stuck = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = stuck.sockets[0].getsockname()[1]
    dialer = SshDialer(limits=DialLimits(handshakes=1, banner_s=30), identities=identities)
    server = await serve(run_locally)
    waiting = [asyncio.create_task(dialer.connect(server.target(key_file, port=port))) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.wait_for(dialer.connect(server.target(key_file)), 10)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    stuck.close()


# --- keys and agents ----------------------------------------------------------------------------------------
@pytest.fixture
def agent(tmp_path: Path):
    """An ssh-agent of this test, ended by its own process id."""
    path = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        while not path.exists():
            assert process.poll() is None
        yield path
        process.terminate()


def add_to(agent: Path, key_file: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(key_file)], env={"SSH_AUTH_SOCK": str(agent)}, check=True)


async def test_the_agent_is_asked_if_no_file_is_named(serve, key_file: Path, agent: Path, tmp_path: Path) -> None:
    server = await serve(run_locally)
    add_to(agent, key_file)
    dialer = SshDialer(identities=Identities(agent_path=str(agent), home=tmp_path / "nobody"))
    await (await dialer.connect(server.target(key_file, identity_files=()))).close()


async def test_default_key_files_are_found(serve, key_file: Path, tmp_path: Path) -> None:
    server = await serve(run_locally)
    (tmp_path / ".ssh").mkdir()
    key_file.rename(tmp_path / ".ssh" / "id_ed25519")
    dialer = SshDialer(identities=Identities(agent_path="", home=tmp_path))
    await (await dialer.connect(server.target(key_file, identity_files=()))).close()


async def test_an_encrypted_key_needs_the_agent(serve, key_file: Path, agent: Path, tmp_path: Path) -> None:
    server = await serve(run_locally)
    add_to(agent, key_file)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key_file], check=True, stdout=subprocess.DEVNULL
    )
    alone = SshDialer(identities=Identities(agent_path="", home=tmp_path / "nobody"))
    with pytest.raises(NodeUnreachable, match="is encrypted and no agent holds it"):
        await alone.connect(server.target(key_file))
    with_agent = SshDialer(identities=Identities(agent_path=str(agent), home=tmp_path / "nobody"))
    await (await with_agent.connect(server.target(key_file))).close()


async def test_a_key_file_that_changed_is_read_again(serve, dialer, key_file: Path, tmp_path: Path) -> None:
    server = await serve(run_locally)
    good = key_file.read_bytes()
    asyncssh.generate_private_key("ssh-rsa").write_private_key(str(key_file))
    with pytest.raises(NodeUnreachable, match="refused user"):
        await dialer.connect(server.target(key_file))
    key_file.write_bytes(good)
    await (await dialer.connect(server.target(key_file))).close()


# --- jump hosts ---------------------------------------------------------------------------------------------
async def test_a_chain_of_jump_hosts_each_pinned(serve, dialer, key_file: Path) -> None:
    first, second, node = [await serve(run_locally) for _ in range(3)]
    chain = (first.target(key_file), second.target(key_file))
    out, _, status = await run(dialer, node.target(key_file, jump=chain), "echo through")
    assert (out, status) == (b"through\n", 0)
    assert first.tunnels == [("127.0.0.1", second.port)]
    assert second.tunnels == [("127.0.0.1", node.port)]
    await eventually(lambda: dialer._jumps._shared == {}, "the jump hosts' connections stayed open")


async def test_nodes_behind_one_jump_host_share_its_connection(serve, dialer, key_file: Path) -> None:
    jump, node = await serve(run_locally), await serve(run_locally)
    target = node.target(key_file, jump=(jump.target(key_file),))
    links = await asyncio.gather(*(dialer.connect(target) for _ in range(5)))
    assert len(jump.connections) == 1
    for link in links[:4]:
        await link.close()
    assert not links[4].closed
    await links[4].close()
    await eventually(lambda: dialer._jumps._shared == {})
    await (await dialer.connect(target)).close()
    assert len(jump.connections) == 2


async def test_an_impostor_as_jump_host_is_refused(serve, dialer, key_file: Path) -> None:
    jump, node = await serve(run_locally), await serve(run_locally)
    wrong = jump.target(key_file, host_keys=(node.host_key.get_fingerprint(),))
    with pytest.raises(NodeUntrusted, match="jump host: "):
        await dialer.connect(node.target(key_file, jump=(wrong,)))
    assert jump.users_seen == node.users_seen == []
    assert dialer._jumps._shared == {}


async def test_an_impostor_behind_a_jump_host_is_refused(serve, dialer, key_file: Path) -> None:
    jump, node = await serve(run_locally), await serve(run_locally)
    target = node.target(key_file, jump=(jump.target(key_file),), host_keys=(jump.host_key.get_fingerprint(),))
    with pytest.raises(NodeUntrusted):
        await dialer.connect(target)
    assert node.users_seen == []
    await eventually(lambda: dialer._jumps._shared == {})


async def test_what_the_jump_host_cannot_reach(serve, dialer, key_file: Path) -> None:
    jump, node = await serve(run_locally), await serve(run_locally)
    await node.stop()
    with pytest.raises(NodeUnreachable, match="the jump host could not connect to it"):
        await dialer.connect(node.target(key_file, jump=(jump.target(key_file),)))
    await jump.stop()
    with pytest.raises(NodeUnreachable, match=r"jump host: .* refused the connection"):
        await dialer.connect(node.target(key_file, jump=(jump.target(key_file),)))


async def test_a_lost_jump_host_ends_the_links_behind_it(serve, dialer, key_file: Path) -> None:
    jump, node = await serve(run_locally), await serve(run_locally)
    target = node.target(key_file, jump=(jump.target(key_file),))
    link = await dialer.connect(target)
    lost = asyncio.Event()
    link.on_lost(lost.set)
    jump.drop_all()
    await asyncio.wait_for(lost.wait(), 10)
    await (await dialer.connect(target)).close()


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 6, 10])
async def test_a_start_that_is_cancelled_leaves_no_channel(serve, dialer, key_file: Path, turns: int) -> None:
    async def wait_for_the_end(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await process.stdin.read()
        process.exit(0)

    server = await serve(wait_for_the_end)
    link = await dialer.connect(server.target(key_file))
    starting = asyncio.create_task(link.exec("x", lambda data: None, lambda: None))
    for _ in range(turns):  # at several points of the way
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    await asyncio.sleep(0.1)
    await eventually(lambda: not link.connection._channels, "the channel stays open")
    channel = await link.exec("x", lambda data: None, lambda: None)  # the connection itself goes on
    channel.close()
    await link.close()
