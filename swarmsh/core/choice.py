"""The scheduler's choice in words: what a node scores for a task, and by what one goes before another."""

from __future__ import annotations

from msgspec import Struct

from swarmsh.core.scheduler import Standing
from swarmsh.core.spread import Rank
from swarmsh.core.words import counted


class Refusal(Struct, frozen=True, kw_only=True):
    """Why a filter refuses a node, and what would mend it."""

    filter: str
    why: str
    fix: str = ""


class NodeStory(Struct, frozen=True, kw_only=True):
    """A node as the scheduler sees it for a task; `ranking` is empty if the node is refused."""

    node: str
    fits: bool
    refusals: tuple[Refusal, ...] = ()
    ranking: str = ""


def node_story(standing: Standing, service: str) -> NodeStory:
    return NodeStory(
        node=standing.node.spec.name,
        fits=standing.rank is not None,
        refusals=tuple(Refusal(filter=name, why=words.why, fix=words.fix) for name, words in standing.refusals),
        ranking=_ranking(standing.rank, service) if standing.rank is not None else "",
    )


def _ranking(rank: Rank, service: str) -> str:
    """The scheduler's scoring, without the task itself."""
    said = [
        f"{counted(b.tasks, 'task')} of {service} where {b.level} is {b.value or 'not set'}" for b in rank.branches
    ]
    said.append(f"{counted(rank.node.tasks_of, 'other task')} of {service}, {rank.node.tasks} in all")
    if rank.node.failures:
        said.append(f"{rank.node.failures} failures of this version lately")
    return "; ".join(said)


def advantage(best: Rank, other: Rank, name: str, other_name: str, service: str) -> str:
    """By what the better one goes first: the first thing in which the two differ."""
    for mine, its in zip(best.branches, other.branches, strict=True):
        if mine.failures != its.failures:
            return f"nodes where {its.level} is {its.value or 'not set'} failed this version lately"
        if mine[:3] != its[:3]:
            here, there = mine.value or "not set", its.value or "not set"
            counts = f"{counted(mine.tasks, 'task')} where {mine.level} is {here}, {its.tasks} where it is {there}"
            return f"{service} has {counts}"
    return _by_node(best, other, name, other_name, service)


def _by_node(best: Rank, other: Rank, name: str, other_name: str, service: str) -> str:
    mine, its = best.node, other.node
    if mine.failures != its.failures:
        return f"{other_name} failed {its.failures} tasks of this version in the last five minutes"
    if mine.tasks_of != its.tasks_of:
        return f"{counted(mine.tasks_of, 'other task')} of {service} on {name}, {its.tasks_of} on {other_name}"
    if mine.tasks != its.tasks:
        return f"as many of {service}, and fewer in all: {mine.tasks} on {name}, {its.tasks} on {other_name}"
    return "equal in all, and the lower node number goes first"
