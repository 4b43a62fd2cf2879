import asyncio

from server.realtime.hold import Hold
from server.realtime.packets import Frame, encoded
from server.realtime.session import Reason
from tests.unit.realtime.test_session import OPTIONS, on_wire


async def test_what_is_held_is_done_together_once_the_loop_goes_on() -> None:
    hold, done = Hold(), list[str]()
    hold.begin()
    assert hold.is_on
    hold.add(lambda: done.append("one"))
    hold.begin()
    hold.add(lambda: done.append("two"))
    assert done == []
    await asyncio.sleep(0)
    assert done == ["one", "two"]


async def test_it_ends_by_itself_and_does_nothing_twice() -> None:
    hold, done = Hold(), list[str]()
    hold.begin()
    hold.add(lambda: done.append("one"))
    for _ in range(2):
        await asyncio.sleep(0)
        assert (hold.is_on, done) == (False, ["one"])
        hold.begin()


async def test_what_is_sent_while_it_is_held_is_written_together_and_in_order() -> None:
    session, _, wire = on_wire()
    first, second, last = (encoded(Frame(b"4%d" % number)) for number in range(3))
    session.outlet._hold.begin()
    session.send(first)
    session.send(second)
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [first.wire + second.wire]
    session.send(last)
    assert wire.written == [first.wire + second.wire, last.wire]
    session.abort(Reason.SHUTDOWN)


async def test_what_is_held_is_written_before_the_client_is_waited_for() -> None:
    session, _, wire = on_wire()
    packet = encoded(Frame(b"4"))
    session.outlet._hold.begin()
    session.send(packet)
    await session.drained()
    assert wire.written == [packet.wire]
    await asyncio.sleep(0)
    assert wire.written == [packet.wire]
    session.abort(Reason.SHUTDOWN)


async def test_what_is_held_is_not_written_to_a_transport_that_is_lost() -> None:
    session, _, wire = on_wire()
    session.outlet._hold.begin()
    session.send(encoded(Frame(b"4")))
    wire.is_lost = True
    await asyncio.sleep(0)
    assert wire.written == []
    session.abort(Reason.SHUTDOWN)


async def test_what_is_held_counts_as_unsent() -> None:
    session, upstairs, wire = on_wire()
    packet = encoded(Frame(b"4" * OPTIONS.max_buffer_bytes))
    session.outlet._hold.begin()
    session.send(packet)
    session.send(packet)
    assert upstairs.reasons == [Reason.SLOW_CONSUMER]
    assert wire.is_aborted


async def test_what_is_held_is_written_before_the_session_ends() -> None:
    """The close frame follows at once, and nothing may come behind it."""
    session, _, wire = on_wire()
    packet = encoded(Frame(b"4"))
    session.outlet._hold.begin()
    session.send(packet)
    session.close(Reason.FORCED_CLOSE)
    assert wire.written == [packet.wire]
    await asyncio.sleep(0)
    assert wire.written == [packet.wire]
    session.abort(Reason.SHUTDOWN)


async def test_one_write_that_fails_takes_no_others_with_it() -> None:
    def fail() -> None:
        raise OSError

    hold, done = Hold(), list[str]()
    hold.begin()
    hold.add(fail)
    hold.add(lambda: done.append("other"))
    await asyncio.sleep(0)
    assert done == ["other"]
