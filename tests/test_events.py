"""Server-sent events: the standard's own examples, any cut of the bytes, and a second reading of its text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftkit.engines.http.answer import Answer
from driftkit.engines.http.events import EventStream


def events(*pieces: bytes) -> list[bytes]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)]


def dripped(data: bytes, stream: EventStream) -> list[bytes]:
    return [event for byte in data for event in stream.feed(bytes([byte]))]


def literally(data: bytes) -> list[bytes]:
    """The standard's steps, one after the other, over the whole stream at once."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, _ = text.split(b"\n")  # what no line end follows is no line
    told, buffer = [], b""
    for line in lines:
        if not line:
            if buffer:
                told.append(buffer[:-1])
            buffer = b""
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            buffer += value.removeprefix(b" ") + b"\n"
    return told


# --- the examples of the HTML Living Standard, "Interpreting an event stream" and "Introduction" ---


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (
            b"data: This is the first message.\n\n"
            b"data: This is the second message, it\ndata: has two lines.\n\n"
            b"data: This is the third message.\n\n",
            [
                b"This is the first message.",
                b"This is the second message, it\nhas two lines.",
                b"This is the third message.",
            ],
        ),
        (
            b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
            [b"73857293", b"2153", b"113411"],
        ),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
            [b"first event", b"second event"],  # the third is not over
        ),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [b"first event", b"second event", b" third event"],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [b"", b"\n"]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
    ],
)
def test_the_standards_examples(stream: bytes, told: list[bytes]) -> None:
    assert events(stream) == told == literally(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_a_line(end: bytes) -> None:
    stream = end.join(
        [b"\xef\xbb\xbf: hello", b"data: a", b"data: b", b"", b"retry: 3", b"data: c", b"", b""]
    )
    assert events(stream) == [b"a\nb", b"c"]
    assert dripped(stream, EventStream()) == [b"a\nb", b"c"]


def test_a_lone_cr_ends_a_line_at_once_and_its_late_lf_is_no_other_line() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\r") == []
    assert stream.feed(b"\r") == [b"a"]
    assert stream.feed(b"") == []
    assert stream.feed(b"\ndata: b\r") == []
    assert stream.feed(b"\ndata: c\r\n\r") == [b"b\nc"]


def test_other_fields_are_not_data() -> None:
    assert events(b"database: x\ndata : x\n data: x\nDATA: x\nerror: x\n\n") == []


def test_separators_of_text_are_no_line_ends() -> None:
    data = "a\x0bb\x0cc\x1cd\x85e\u2028f".encode()
    assert events(b"data: " + data + b"\n\n") == [data]


def test_a_character_that_was_cut_comes_out_whole() -> None:
    stream = "data: naïve 😀\n\n".encode()
    for cut in range(len(stream) + 1):
        assert [event.decode() for event in events(stream[:cut], stream[cut:])] == ["naïve 😀"]


# --- any stream, cut anywhere ----------------------------------------------------------------------

PIECES = st.sampled_from(
    [b"data", b"data:", b"data: ", b": ", b":", b" ", b"id: 7", b"x", "é".encode(), b"\xef\xbb\xbf"]
    + 2 * [b"\n", b"\r", b"\r\n", b"\n\n", b"data: y\n\n"]
)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 120), max_size=12))
def test_wherever_the_bytes_are_cut_the_events_are_the_same(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert events(*pieces) == literally(stream)


@pytest.mark.parametrize(
    "waiting", [b"data: " + 95 * b"x", b"data: x\n" * 15, b"data\n" * 26, b": " + 99 * b"x"]
)
def test_an_event_that_never_ends_is_refused(waiting: bytes) -> None:
    assert len(waiting) > 100
    with pytest.raises(ValueError, match="more than 100 bytes without the end of an event"):
        EventStream(most_waiting=100).feed(waiting)
    with pytest.raises(ValueError, match="more than 100 bytes without the end of an event"):
        dripped(waiting, EventStream(most_waiting=100))


def test_what_is_over_does_not_wait() -> None:
    stream = EventStream(most_waiting=100)
    for _ in range(100):
        assert stream.feed(b"data: " + 50 * b"x") == []
        assert stream.feed(b"\n: a comment that is over\n\n") == [50 * b"x"]


# --- what an event says ---------------------------------------------------------------------------


def test_an_error_that_is_null_is_none() -> None:
    answer = Answer()
    answer.take(b'{"error": null, "choices": [{"text": "a", "finish_reason": "stop"}]}')
    assert (answer.error, answer.started, answer.finish_reason) == (None, True, "stop")
