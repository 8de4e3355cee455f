"""Secrets and configs of tasks: files in memory, which each task's container sees read-only.

What is below `root/secrets` (0700), a file system in memory:

    TASK/ID.given    contents as they were given, until they are in their places (0600)
    TASK/run/…       what containers see as /run/secrets: one folder, so that a new file takes an old one's place
                     at once, by a rename
    TASK/single/…    each other target, mounted for itself; to be exchanged it must be written anew
    TASK/placed.json which of them is where, by target: no contents

Nothing of this is kept anywhere else: not in the helper's state, not in its log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import posixpath
import re
import shutil

from . import memoryfs
from .fence import Refused
from .log import log

SECRETS = "/run/secrets"
LARGEST = 16 * 1024 * 1024  # of one, where a template was expanded: far more than anybody asks for
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_file(one) -> bool:
    """Whether an entry of `files` of an action has all that it needs."""
    return (
        isinstance(one, dict)
        and isinstance(one.get("id"), str)
        and _ID.fullmatch(one["id"]) is not None
        and isinstance(one.get("target"), str)
        and one["target"].startswith("/")
        and posixpath.normpath(one["target"]) == one["target"] not in ("/", "//")
        and all(
            isinstance(one.get(key, 0), int) and 0 <= one.get(key, 0) < 2**32 - 1 for key in ("uid", "gid", "mode")
        )
    )


def with_mounts(body: dict, mounts: list) -> dict:
    """The body of a create with further mounts."""
    host = body.get("HostConfig") or {}
    return {**body, "HostConfig": {**host, "Mounts": [*(host.get("Mounts") or ()), *mounts]}} if mounts else body


def in_folder(config: dict, files: list) -> bool:
    """Whether /run/secrets can be one folder: not if the task itself mounts something there or below.

    /var/run is a link to /run in most images: what has its target below /var/run/secrets would have to be made in
    that folder, which is read-only.
    """
    host = config.get("HostConfig") or {}
    targets = [one.get("Target") or "" for one in host.get("Mounts") or ()]
    targets += [bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind]
    targets += list(host.get("Tmpfs") or ())
    targets = [posixpath.normpath(target) for target in targets]
    if any(_is_below(target, "/var" + SECRETS) for target in (*targets, *(one["target"] for one in files))):
        return False
    return not any(_is_below(target, SECRETS) for target in targets)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


class SecretFiles:
    """All that was given to tasks of this node. `files` are those of an action, `config` is its container's."""

    def __init__(self, root: str) -> None:
        self._folder = f"{root}/secrets"
        self._open = False

    # --- what is given --------------------------------------------------------------------------------------
    def take(self, item: dict) -> None:
        """Write a part of some contents: parts come in order, the first one at offset 0.

        Raises Refused, whose words have nothing of the contents, and OSError.
        """
        task_id, object_id = item.get("task_id"), item.get("id")
        for word in (task_id, object_id):
            if not isinstance(word, str) or not _ID.fullmatch(word):
                raise Refused("bad_request", "contents: field task_id or id is missing or no id")
        offset, size = item.get("offset", 0), item.get("size")
        if not (isinstance(offset, int) and isinstance(size, int) and 0 <= offset <= size <= LARGEST):
            raise Refused("bad_request", f"contents of {object_id}: field offset or size is no number in range")
        try:
            data = base64.b64decode(item.get("data", ""), validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise Refused("bad_request", f"contents of {object_id}: field data is no base64") from None
        self._ensure_open()
        folder = self._of(task_id)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        part = f"{folder}/{object_id}.part"
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if offset == 0 else 0)
        fd = os.open(part, flags, 0o600)
        try:
            if os.fstat(fd).st_size != offset or offset + len(data) > size:
                raise Refused("bad_request", f"contents of {object_id}: a part at {offset} does not follow")
            os.lseek(fd, offset, os.SEEK_SET)
            _write_all(fd, data)
        finally:
            os.close(fd)
        if offset + len(data) == size:
            os.rename(part, f"{folder}/{object_id}.given")

    def _ensure_open(self) -> None:
        if self._open and os.path.isdir(self._folder):
            return
        memoryfs.not_dumpable()
        kind = memoryfs.ensure_mounted(self._folder)
        if not self._open:
            log("secrets_in_memory", folder=self._folder, kind=kind)
        self._open = True

    # --- where they go --------------------------------------------------------------------------------------
    def missing(self, task_id: str, files: list) -> list:
        """Ids of contents that have to be given before these files can be there."""
        if not files:
            return []
        placed, folder = self._placed(task_id), self._of(task_id)
        lacking = {one["id"] for one in files if not self._is_placed(task_id, one, placed)}
        return sorted(i for i in lacking if not os.path.exists(f"{folder}/{i}.given"))

    def place(self, task_id: str, files: list, config: dict) -> None:
        """Have all files in their places; none may be missing. Doing it again changes nothing. Raises OSError.

        What was given since takes the place of what is there, also under the same id: a template has the contents
        of others in it.
        What a container looks at by now is exchanged: below /run/secrets each file at once, others by writing
        them anew.
        """
        if not files:
            return
        placed, shared, folder = self._placed(task_id), in_folder(config, files), self._of(task_id)
        given = {one["id"] for one in files if os.path.exists(f"{folder}/{one['id']}.given")}
        todo = [one for one in files if one["id"] in given or not self._is_placed(task_id, one, placed)]
        for one in todo:
            place = _place_of(one["target"], shared)
            if placed.pop(one["target"], None) is not None:
                # What is written halfway, as on a full disk, is neither the one nor the other.
                _write_new(f"{folder}/placed.json", json.dumps(placed).encode())
            try:
                self._put(f"{folder}/{one['id']}.given", folder, place, one)
            except OSError as e:
                raise OSError(e.errno, f"{one['target']} cannot be made: {e.strerror}") from e
            placed[one["target"]] = _record(one, place)
        if todo:
            _write_new(f"{folder}/placed.json", json.dumps(placed).encode())
        for name in given:
            os.unlink(f"{folder}/{name}.given")

    def _put(self, source: str, folder: str, place: str, one: dict) -> None:
        with open(source, "rb") as file:
            data = file.read()
        path = f"{folder}/{place}"
        _make_folders(folder, posixpath.dirname(place))
        owner, mode = (one.get("uid", 0), one.get("gid", 0)), one.get("mode", 0o444) & 0o777
        if place.startswith("single/") and os.path.exists(path):
            # It is this inode that a container has mounted: another one would not be seen there.
            fd = os.open(path, os.O_WRONLY)
            try:
                _write_all(fd, data)
                os.ftruncate(fd, len(data))
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
            return
        temporary = f"{folder}/.new"  # outside of what the container sees
        _write_new(temporary, data, owner, mode)
        os.rename(temporary, path)

    def mounts(self, task_id: str, files: list, config: dict) -> list:
        """The mounts of a container for these files, in order of their targets."""
        shared, found = in_folder(config, files), {}
        for one in files:
            place = _place_of(one["target"], shared)
            target, source = (SECRETS, "run") if place.startswith("run/") else (one["target"], place)
            found[target] = f"{self._of(task_id)}/{source}"
        return [
            {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
            for target, source in sorted(found.items())
        ]

    # --- the end of them ------------------------------------------------------------------------------------
    def remove(self, task_id: str) -> None:
        """Nothing of this task's is left; nothing if there is none."""
        if _ID.fullmatch(task_id) and os.path.isdir(self._of(task_id)):
            shutil.rmtree(self._of(task_id), ignore_errors=True)
            log("secrets_removed", task=task_id)

    def sweep(self, keep: set) -> None:
        """Remove those of all tasks but these."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return
        for name in names:
            if name not in keep:
                self.remove(name)

    # --- inside ---------------------------------------------------------------------------------------------
    def _of(self, task_id: str) -> str:
        return f"{self._folder}/{task_id}"

    def _placed(self, task_id: str) -> dict:
        try:
            with open(f"{self._of(task_id)}/placed.json", encoding="utf-8") as file:
                return dict(json.load(file))
        except (OSError, ValueError):
            return {}

    def _is_placed(self, task_id: str, one: dict, placed: dict) -> bool:
        found = placed.get(one["target"])
        wanted = found is not None and found == _record(one, found.get("place", ""))
        return wanted and os.path.exists(f"{self._of(task_id)}/{found['place']}")


def _place_of(target: str, shared: bool) -> str:
    """Where a target's file is, below its task's folder; always the same for the same target."""
    if shared and target.startswith(SECRETS + "/"):
        return "run" + target[len(SECRETS) :]
    return "single/" + hashlib.sha256(target.encode()).hexdigest()[:16]


def _record(one: dict, place: str) -> dict:
    own = {key: one.get(key, default) for key, default in (("uid", 0), ("gid", 0), ("mode", 0o444))}
    return {"id": one["id"], "place": place, **own}


def _make_folders(folder: str, below: str) -> None:
    """Folders that the container's users may enter; what is above them nobody but root may."""
    path = folder
    for word in below.split("/"):
        path = f"{path}/{word}"
        if not os.path.isdir(path):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)  # whatever the umask says


def _write_new(path: str, data: bytes, owner: tuple = (0, 0), mode: int = 0o600) -> None:
    """A file of this content, whole or not at all under its name."""
    temporary = path + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(fd, data)
        if owner != (0, 0):
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
