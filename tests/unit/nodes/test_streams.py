"""Lines and frames: however the bytes are cut, the same comes out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmsh.adapters.nodes.frames import FrameReader, LineCutter
from swarmsh.adapters.nodes.lines import LineSplitter, LineTooLong


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 10_000), max_size=20)


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=20), CUTS)
def test_lines_do_not_depend_on_how_the_bytes_come(lines: list[bytes], cuts: list[int]) -> None:
    splitter = LineSplitter(limit=64)
    data = b"".join(line + b"\n" for line in lines) + b"rest"
    assert [line for part in pieces(data, cuts) for line in splitter.feed(part)] == lines
    assert splitter.rest() == b"rest"


@given(st.integers(0, 200), st.booleans(), CUTS)
def test_a_line_is_too_long_beyond_the_limit_and_not_before(length: int, ended: bool, cuts: list[int]) -> None:
    splitter = LineSplitter(limit=100)
    data = b"short\n" + b"x" * length + (b"\n" if ended else b"")

    def feed() -> None:
        for part in pieces(data, cuts):
            splitter.feed(part)

    if length > 100:
        with pytest.raises(LineTooLong):
            feed()
    else:
        feed()


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20), CUTS)
def test_frames_do_not_depend_on_how_the_bytes_come(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(bytes([s, 0, 0, 0]) + len(d).to_bytes(4, "big") + d for s, d in frames)
    reader = FrameReader()
    assert [c for part in pieces(wire, cuts) for c in reader.feed(part)] == [(s, d) for s, d in frames if d]


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20))
def test_cut_lines_hold_all_that_came(chunks: list[tuple[int, bytes]]) -> None:
    cutter = LineCutter()
    lines = [line for stream, data in chunks for line in cutter.feed(stream, data)]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for _, line in lines)
    lines += cutter.rest()
    for stream in (1, 2):
        assert b"".join(d for s, d in lines if s == stream) == b"".join(d for s, d in chunks if s == stream)


def test_an_endless_line_of_a_log_comes_in_pieces() -> None:
    cutter = LineCutter()
    assert cutter.feed(1, bytes(600_000)) == []
    assert [len(line) for _, line in cutter.feed(1, bytes(600_000))] == [1_200_000]
    assert cutter.rest() == []
