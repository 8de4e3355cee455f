"""What an SSH session execs: brings the helper and hands the session to it, or joins it to the Engine.

Sent compressed inside the command line, so it is one small file that imports little: start-up is what a node
waits for. Messages: docs/protocol.md, "The stub".
"""

import _socket as socket
import os
import sys
import time

try:
    from json import dumps, loads
except ImportError:  # no json, no Python worth the name
    raise SystemExit(1) from None

ENGINE = "/var/run/docker.sock"
UNIT = "swarmsh-helper"
HELPER_ANSWERS_S = 15.0  # a hand-over took more than 8 s on a slow and busy machine
HELPER_STARTS_S = 45.0
ARCHIVE_STALLS_S = 60


class Fault(Exception):
    """Ends the stub: what happened, and the way out."""


def say(message):
    data = dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def read_line():
    """The first line of standard input, and what was read after it."""
    data = b""
    while b"\n" not in data:
        part = os.read(0, 65536)
        if not part or len(data) > 65536:
            raise Fault("no request on standard input", "This command is meant for a swarmsh manager")
        data += part
    head, _, rest = data.partition(b"\n")
    return loads(head), rest


def connect(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


# --- verb engine ----------------------------------------------------------------------------------------
def join_engine(path, first):
    """Copy both ways until the Engine has closed, or both sides have ended."""
    import _thread
    import select

    try:
        sock = connect(path)
    except OSError as e:
        raise Fault(
            "cannot connect to the Docker daemon at unix://%s: %s" % (path, e.strerror), "systemctl start docker"
        ) from e
    say({"ok": True})
    ended = []

    def upwards():
        try:
            data = first or os.read(0, 65536)
            while data:
                sock.sendall(data)
                data = os.read(0, 65536)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        ended.append("input")
        if "output" in ended:
            os._exit(0)

    _thread.start_new_thread(upwards, ())
    try:
        data = sock.recv(65536)
        while data:
            write_all(1, data)
            data = sock.recv(65536)
    except OSError:
        os._exit(0)  # either side is gone for good
    os.close(1)
    ended.append("output")
    if "input" not in ended:
        # The Engine ended its half, and may still read; POLLHUP comes when it closed altogether.
        poll = select.poll()
        poll.register(sock.fileno(), 0)
        poll.poll()
    os._exit(0)


# --- verb session ---------------------------------------------------------------------------------------
def prepare_root(root):
    try:
        os.mkdir(root, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(root)
    if found.st_uid != 0 or found.st_mode & 0o170077 != 0o040000:
        raise Fault("%s is not a folder that only root can enter" % root, "Remove it; it is made afresh")


def sha256(data):
    try:
        from _sha2 import sha256 as new  # without OpenSSL: 3.12 on
    except ImportError:
        try:
            from _sha256 import sha256 as new
        except ImportError:
            from hashlib import sha256 as new
    return new(data).hexdigest()


def ensure_archive(root, wanted, size, rest):
    """Have root/<hash>.pyz; what is missing comes from the manager. Returns what was read beyond it."""
    path = "%s/%s.pyz" % (root, wanted)
    if os.path.exists(path):
        return rest
    say({"need": wanted})
    data = bytearray(rest)
    import select

    poll = select.poll()
    poll.register(0, select.POLLIN)
    while len(data) < size:
        if not poll.poll(ARCHIVE_STALLS_S * 1000):  # the link died, which sshd may not know for hours
            raise Fault("nothing of the helper's archive came for %d s" % ARCHIVE_STALLS_S, "")
        part = os.read(0, 1 << 20)
        if not part:
            raise Fault("the helper's archive broke off after %d of %d bytes" % (len(data), size), "")
        data += part
    if sha256(bytes(data[:size])) != wanted:
        raise Fault("the helper's archive does not have the hash it should have", "")
    temporary = "%s.%d" % (path, os.getpid())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, data[:size])
    finally:
        os.close(fd)
    os.rename(temporary, path)
    return bytes(data[size:])


def point_to(root, wanted):
    """root/helper.pyz names the version that a restart of the unit starts."""
    temporary = "%s/.helper.%d" % (root, os.getpid())
    os.symlink("%s.pyz" % wanted, temporary)
    os.rename(temporary, root + "/helper.pyz")


def ask(root, message, fds=(), extra=b""):
    """One message to the resident helper. Returns (its answer, the socket), or (None, None) if none runs."""
    try:
        sock = connect(root + "/helper.sock")
    except OSError:
        return None, None
    tv = int(HELPER_ANSWERS_S).to_bytes(8, sys.byteorder) + bytes(8)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tv)
    passed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)] if fds else []
    answer = b""
    try:
        sock.sendmsg([dumps(message).encode() + b"\n" + extra], control)
        while not answer.endswith(b"\n"):
            part = sock.recv(4096)
            if not part:
                break
            answer += part
    except BlockingIOError:
        return None, sock
    except OSError:
        return None, None
    return (loads(answer) if answer else None), sock


def run(argv):
    """Exit status and what it printed; the manager's channel is not touched."""
    import select

    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    pid = os.fork()
    if pid == 0:
        os.dup2(null, 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            os.execvp(argv[0], argv)
        except OSError:
            os._exit(127)
    os.close(writing)
    os.close(null)
    output = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while poll.poll(60000):
        part = os.read(reading, 65536)
        if not part:
            break
        output += part
    os.close(reading)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode("utf-8", "replace").strip()


def start_helper(root):
    """Outside of this session, so that it outlives it."""
    command = [sys.executable, "-ISu", root + "/helper.pyz", "--root", root]
    if not os.path.isdir("/run/systemd/system"):
        return start_detached(root, command)
    unit = UNIT if root == "/run/swarmsh" else UNIT + root.replace("/", "-")
    settings = [
        "Restart=always",
        "RestartSec=100ms",
        "StartLimitIntervalSec=0",
        "OOMScoreAdjust=-900",
        "RestartPreventExitStatus=64",
        "SuccessExitStatus=64",
        "LimitNOFILE=65536",
        "TimeoutStopSec=5",
    ]
    start = ["systemd-run", "--quiet", "--collect", "--unit=" + unit, "--description=swarmsh: resident helper"]
    start += ["--property=" + one for one in settings] + ["--"] + command
    code, words = run(start)
    if code:  # a unit of that name is there: hung, or dead a moment ago
        run(["systemctl", "stop", unit + ".service"])
        run(["systemctl", "reset-failed", unit + ".service"])
        code, words = run(start)
    if code:
        raise Fault("systemd-run could not start the helper: %s" % words, "journalctl -u %s" % unit)


def start_detached(root, command):
    log = os.open(root + "/helper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write("-900")
            except OSError:
                pass
            os.execv(command[0], command)
        os._exit(0)
    os.wait()
    os.close(log)


def open_session(root, wanted, rest):
    """Hand standard input and output to a helper of the wanted version, started or replaced if need be."""
    request = {"verb": "session", "helper": wanted}
    until = time.monotonic() + HELPER_STARTS_S
    started = False
    answer, sock = ask(root, request, (0, 1), rest)
    while not (answer and answer.get("ok")):
        if time.monotonic() > until:
            raise Fault(
                "the helper did not start within %d s" % HELPER_STARTS_S,
                "journalctl -u %s (or %s/helper.log)" % (UNIT, root),
            )
        if answer and "helper" in answer:
            point_to(root, wanted)
            ask(root, {"verb": "handover", "helper": wanted})
        elif not started:
            point_to(root, wanted)
            start_helper(root)
            started = True
            until = time.monotonic() + HELPER_STARTS_S
        time.sleep(0.03)
        answer, sock = ask(root, request, (0, 1), rest)
    return sock


def wait_as_little_as_possible(sock):
    """Become a process that only waits for the helper to close the socket: sshd keeps the channel for it."""
    null = os.open("/dev/null", os.O_RDWR)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))
    os.dup2(sock.fileno(), 0)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        os.execvp("cat", ["cat"])
    except OSError:
        while os.read(0, 4096):
            pass


def session(request, rest):
    import fcntl

    if os.geteuid() != 0:
        raise Fault("the helper must run as root", "Connect as root, or set ansible_become in the inventory")
    root, wanted = request["root"], request["helper"]
    os.umask(0o077)
    prepare_root(root)
    rest = ensure_archive(root, wanted, int(request["size"]), rest)  # without the lock: a link may die in it
    lock = os.open(root + "/lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions that begin at once must not start two helpers
    if not os.path.exists("%s/%s.pyz" % (root, wanted)):
        raise Fault("a helper of another version that just started removed this one's archive", "")
    sock = open_session(root, wanted, rest)
    os.close(lock)
    wait_as_little_as_possible(sock)


def main():
    try:
        request, rest = read_line()
        if request["verb"] == "engine":
            join_engine(ENGINE, rest)
        elif request["verb"] == "session":
            session(request, rest)
        else:
            raise Fault("unknown verb %r" % request["verb"], "Use a manager of the same version")
    except Fault as e:
        say({"error": e.args[0], "hint": e.args[1]})
        sys.exit(1)
    except Exception as e:
        say({"error": "%s: %s" % (type(e).__name__, e), "hint": ""})
        sys.exit(1)


main()
