import asyncio

from tests.unit.realtime.redis_streams.outs import filled, out, outbox


def test_a_batch_is_the_first_unsent_ones_and_stays() -> None:
    made, outs = filled(300)
    assert made.batch() == outs[:200]
    assert made.batch() == outs[:200]


def test_a_batch_is_bounded_by_bytes_but_for_its_first() -> None:
    made, outs = filled(3)
    for each in outs[:2]:
        each.passage = type(each.passage)(kind="numbered:", key="me", number=1, data=bytes(600_000))
    assert made.batch() == outs[:1]


def test_what_is_void_is_never_sent() -> None:
    made, outs = filled(4)
    outs[0].is_void = outs[2].is_void = True
    assert made.batch() == [outs[1], outs[3]]
    made.sent(outs[1])
    assert made.batch() == [outs[3]]
    made.sent(outs[3])
    assert not made.unsent


def test_what_was_given_up_on_its_way_takes_nothing_newer_along() -> None:
    made, outs = filled(2)
    for each in outs:
        made.settle(each.entry.number, is_published=False)
    made.clear()
    newer = out(made.next_number())
    made.add(newer)
    made.sent(outs[0])
    assert list(made.unsent) == [newer]


def test_what_was_not_dealt_with_is_not_given_up() -> None:
    made, outs = filled(2)
    made.settle(1, is_published=False)
    made.clear()
    assert list(made.unsent) == [outs[1]]


def test_it_is_full_by_number_by_bytes_and_by_what_was_told() -> None:
    assert filled(2, outbox(most_entries=2))[0].is_full
    assert filled(1, outbox(most_bytes=10))[0].is_full
    made, outs = filled(1, outbox(most_entries=2))
    made.told[1] = outs[0]
    made.owe("r", 1, 1)
    assert made.is_full
    assert not filled(1, outbox(most_entries=2))[0].is_full


def test_its_bytes_are_those_of_what_is_unsent() -> None:
    made, outs = filled(3)
    made.sent(outs[2])
    assert made._unsent_bytes == 0
    filled(2, made)
    made.clear()
    assert made._unsent_bytes == sum(len(each.passage.data) for each in made.unsent)


async def test_who_waits_learns_whether_others_have_it() -> None:
    made, outs = filled(2)
    for each in outs:
        each.done = asyncio.get_running_loop().create_future()
    made.settle(1, is_published=False)
    made.came_back(2)
    made.settle(2, is_published=False)
    assert [each.done.result() for each in outs if each.done] == [False, True]


def test_what_came_back_need_not_go_in_again() -> None:
    made, outs = filled(1)
    made.came_back(1)
    assert outs[0].is_void
    assert made.batch() == []


def test_what_went_in_and_was_overtaken_is_lost() -> None:
    made, outs = filled(4)
    for each in outs[:3]:
        made.sent(each)
        each.is_in = True
    made.told[1] = made.pending.pop(1)
    assert list(made.overtaken(3)) == [(outs[1], False), (outs[0], True)]
    assert list(made.overtaken(3)) == []
    assert list(made.pending) == [3, 4]


def test_what_was_told_and_never_went_in_is_awaited_no_longer() -> None:
    made, outs = filled(2)
    made.sent(outs[0])
    made.told[1] = made.pending.pop(1)
    assert list(made.overtaken(2)) == []
    assert not made.told


def test_what_may_still_go_in_is_not_lost() -> None:
    made, _ = filled(2)
    made.told[1] = made.pending.pop(1)
    assert list(made.overtaken(9)) == []
    assert list(made.told) == [1]


def test_debts_of_a_key_are_one_debt() -> None:
    made = outbox()
    made.owe("r", 5, 6)
    made.owe("r", 2, 3)
    made.owe("r", 4, 4)
    assert made.owed == {"r": (2, 6)}


def test_a_debt_that_grows_is_another_one() -> None:
    made = outbox()
    made.owe("r", 5, 5)
    before = made.owed["r"]
    made.owe("r", 5, 5)
    assert made.owed["r"] is not before


def test_behind_an_echo_all_has_come_and_before_a_lost_one_maybe_nothing() -> None:
    made = outbox()
    made.fences |= {3: {"a": 1}, 5: {"b": 2}, 7: {"c": 3}}
    assert made.passed(4) == {}
    assert made.owed == {"a": (1, 1)}
    assert made.passed(5) == {"b": 2}
    assert list(made.fences) == [7]
