"""Bytes to messages: HTTP answers, JSON lines, and the sample messages that both sides read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_helpers.httpwire import AnswerParser, BadAnswer, JsonLines
from remote_helpers.session import LINE_LIMIT, BadLine, LineSplitter, split_reports, to_line

CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n8;x=y\r\n, \r\nworl\r\n1\r\nd\r\n0\r\nTrailer: x\r\n\r\n"
)


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=12))
def test_a_chunked_answer_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    parser, body, last = AnswerParser(), b"", 0
    for cut in [*sorted(cuts), len(CHUNKED)]:
        body += parser.feed(CHUNKED[last:cut])
        last = cut
    assert (parser.status, parser.done, body) == (200, True, b"hello, \r\nworld")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", 304, b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 500, b""),
    ],
)
def test_answers_with_a_known_end(answer: bytes, status: int, body: bytes) -> None:
    parser = AnswerParser()
    assert parser.feed(answer) == body
    assert (parser.status, parser.done) == (status, True)


def test_an_answer_without_length_ends_with_the_connection() -> None:
    parser = AnswerParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\npart") == b"part"
    assert not parser.done
    parser.feed_eof()
    assert parser.done


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
)
def test_garbage_is_no_answer(garbage: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerParser().feed(garbage)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    parser = AnswerParser()
    parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour")
    with pytest.raises(BadAnswer):
        parser.feed_eof()


def test_stream_objects_come_when_their_line_is_complete() -> None:
    lines = JsonLines()
    assert lines.feed(b'{"a":1}\r\n{"b"') == [{"a": 1}]
    assert lines.feed(b":2}\n\n") == [{"b": 2}]
    with pytest.raises(BadAnswer):
        lines.feed(b"no json\n")


@given(cuts=st.lists(st.integers(0, 40), max_size=5))
def test_lines_read_the_same_however_they_are_cut(cuts: list[int]) -> None:
    data = b'{"id":1,"op":"lease"}\n\n{"id":2,"op":"\xc3\xa9"}\n'
    splitter, found, last = LineSplitter(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += splitter.feed(data[last:cut])
        last = max(last, cut)
    assert found == [{"id": 1, "op": "lease"}, {"id": 2, "op": "é"}]


@pytest.mark.parametrize("line", [b"{\n", b"[1]\n", b"nope\n", b"\xff\n", b'"' + b"x" * LINE_LIMIT + b'"\n'])
def test_what_is_no_line_of_ours_is_refused(line: bytes) -> None:
    splitter = LineSplitter()
    with pytest.raises(BadLine):
        splitter.feed(line)


def test_an_endless_line_is_refused_before_it_ends() -> None:
    splitter = LineSplitter()
    for _ in range(16):
        splitter.feed(b"x" * 65536)
    with pytest.raises(BadLine, match="1 MiB"):
        splitter.feed(b"x")


def test_a_line_that_fits_is_written_and_one_that_does_not_is_not() -> None:
    overhead = len(json.dumps({"x": ""}, separators=(",", ":")))
    assert len(to_line({"x": "y" * (LINE_LIMIT - overhead)})) == LINE_LIMIT + 1
    with pytest.raises(ValueError, match="does not fit"):
        to_line({"x": "y" * (LINE_LIMIT - overhead + 1)})


@given(sizes=st.lists(st.integers(0, 50), max_size=20), room=st.integers(0, 600))
def test_reports_are_split_without_loss(sizes: list[int], room: int) -> None:
    reports = [{"err": "x" * size} for size in sizes]
    first, rest = split_reports(reports, room)
    assert first + rest == reports
    assert len(json.dumps(first, separators=(",", ":"))) <= room + 2
