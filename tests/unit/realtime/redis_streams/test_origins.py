import pytest

from server.realtime.redis_streams import entries, origins
from server.realtime.redis_streams.origins import Origins
from tests.unit.realtime.redis_streams.outs import emit_entry


def test_each_number_of_a_server_is_new_once() -> None:
    made = Origins()
    came = [("a", 1), ("a", 2), ("a", 2), ("b", 1), ("a", 1), ("a", 5)]
    assert [made.is_new(emit_entry(number, node=node)) for node, number in came] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_what_has_no_number_is_always_new() -> None:
    made = Origins()
    assert made.is_new(emit_entry(0))
    assert made.is_new(emit_entry(0))


def test_what_was_lost_is_new_to_who_had_not_read_it() -> None:
    made = Origins()
    made.is_new(emit_entry(1))
    made.end_epoch("one")
    made.is_new(emit_entry(3))
    assert made.is_new(entries.again(emit_entry(2), 4, "one"))
    assert not made.is_new(entries.again(emit_entry(1), 5, "one"))
    assert not made.is_new(emit_entry(5))


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "_MOST_SERVERS", 2)
    made = Origins()
    for node in "abc":
        made.is_new(emit_entry(1, node=node))
    for epoch in range(9):
        made.end_epoch(f"{epoch}")
    assert (len(made._last), len(made._ended)) == (2, 4)
    assert made.is_new(emit_entry(1, node="a"))
