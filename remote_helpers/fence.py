"""Who may command this node: cluster id, session epoch and version index, and the lease (pure)."""

from __future__ import annotations


class Refused(Exception):
    """A request is refused: `code` for programs, the message and `hint` for people."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class Fence:
    """The highest epoch and index seen, and of which cluster; persisted before anything is accepted."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.node_id = ""
        self.epoch = 0
        self.index = 0
        self.unchecked = False  # taken before the Engine ever listed its containers: another cluster's may be here
        self.released = False  # its owner let it go although tasks are left

    def to_state(self) -> dict:
        return dict(vars(self))

    def restore(self, state: dict) -> None:
        for key in vars(self):
            if key in state:
                setattr(self, key, state[key])

    def attach(self, args: dict, held_by: set, leased: bool, listed: bool = True) -> None:
        """Take a manager's session. `held_by`: clusters with containers here; `leased`: the last lease still
        holds; `listed`: the Engine has told its containers.

        Raises Refused (`other_cluster`, `stale_epoch`).
        """
        cluster_id, epoch = _text(args, "cluster_id"), _number(args, "epoch")
        others = sorted(held_by - {cluster_id})
        if self.cluster_id == cluster_id:
            others = []  # it holds the node: what another one left here when it let go changes nothing
        elif self.cluster_id and leased:
            others = others or [self.cluster_id]
        if others and not self.released:
            raise held(self.cluster_id if self.cluster_id in others else others[0], cluster_id)
        if self.cluster_id == cluster_id:
            self._check_epoch(epoch)
        else:
            self.epoch = self.index = 0
            self.unchecked = not listed and not self.released
        self.cluster_id, self.epoch, self.released = cluster_id, epoch, False
        self.node_id = str(args.get("node_id", ""))

    def batch(self, args: dict) -> None:
        """Let a batch pass. Raises Refused (`other_cluster`, `stale_epoch`, `stale_index`)."""
        cluster_id, epoch, index = _text(args, "cluster_id"), _number(args, "epoch"), _number(args, "index")
        if cluster_id != self.cluster_id:
            raise Refused("other_cluster", f"this node is held by cluster {self.cluster_id}, not {cluster_id}")
        self._check_epoch(epoch)
        if index < self.index:
            raise Refused(
                "stale_index",
                f"version index {index} is below {self.index}, which this node has seen",
                "The manager's database is older than its nodes: restore a newer one",
            )
        self.epoch, self.index = epoch, index

    def _check_epoch(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise Refused(
                "stale_epoch",
                f"session epoch {epoch} is below {self.epoch}: a newer manager process holds this node",
                "Stop the older manager, or restore the newest database",
            )

    def check(self, found: set) -> Refused | None:
        """The Engine listed containers of the clusters `found`: whether an attach before that was wrong.

        If so, it is forgotten, and the answer is what it should have been.
        """
        others = sorted(found - {self.cluster_id})
        wrong = self.unchecked and bool(others)
        self.unchecked = False
        if not wrong:
            return None
        refused = held(others[0], self.cluster_id)
        self.cluster_id = self.node_id = ""
        self.epoch = self.index = 0
        return refused

    def release(self) -> None:
        """Forget the cluster; what still runs no longer keeps another one out."""
        self.cluster_id = self.node_id = ""
        self.epoch = self.index = 0
        self.released, self.unchecked = True, False


def held(holder: str, cluster_id: str) -> Refused:
    """The refusal for `cluster_id`, with the ways out."""
    return Refused(
        "other_cluster",
        f"this node is held by cluster {holder}; cluster {cluster_id} may not use it",
        f"Release it there (`swarmsh node rm --force NODE` with the manager of {holder}), or, if that "
        f"manager is lost, remove its containers on the node: "
        f"docker rm -f $(docker ps -aq --filter label=swarmsh.cluster={holder})",
    )


def _text(args: dict, key: str) -> str:
    value = args.get(key)
    if not isinstance(value, str) or not value:
        raise Refused("bad_request", f"field {key} is missing or no text")
    return value


def _number(args: dict, key: str) -> int:
    value = args.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused("bad_request", f"field {key} is missing or no number")
    return value
