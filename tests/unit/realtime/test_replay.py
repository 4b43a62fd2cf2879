import asyncio
import json
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from server.realtime.packet_log import Stay
from server.realtime.packets import encode_event
from server.realtime.recovery import Recovery, RecoveryOptions
from server.realtime.replay import CHUNK_BYTES, CHUNK_FRAMES, Replay
from server.realtime.session import MAX_UNSENT_FRAMES, Options, Reason, Session
from tests.unit.realtime.trails import begin

OPTIONS = Options(recovery=RecoveryOptions(max_log_entries=20_000))


class Upstairs:
    """The receiver of a session on which nothing is received."""

    is_full = False

    def answered(self) -> None: ...

    async def wait_for_room(self) -> None: ...

    def received(self, _frame: object) -> None: ...

    def closed(self, _reason: Reason) -> None: ...


class Desk:
    """A connection that is back, in one room, on a session whose client polls when told to."""

    def __init__(self, options: Options = OPTIONS) -> None:
        self.recovery = Recovery(options.recovery, ping_s=1)
        self.session = Session(None, options, lambda _: None)
        self.session.receiver = Upstairs()
        self.trail = begin(self.recovery)
        self.stays = {"room": Stay(since=0)}
        self.is_wanted = True
        self.heard: list[tuple[object, str]] = []
        self.most_unsent = (0, 0)
        self.replay = Replay(
            self.trail,
            0,
            recovery=self.recovery,
            session=self.session,
            stays=lambda: self.stays,
            options=options,
        )

    def tell(self, *data: object, room: str = "room") -> None:
        for each in data:
            self.recovery.record(encode_event("/chat", "a", each), frozenset([room]))

    def poll(self, most: int = MAX_UNSENT_FRAMES) -> None:
        unsent = len(self.session._unsent), self.session._unsent_bytes
        self.most_unsent = max(self.most_unsent[0], unsent[0]), max(self.most_unsent[1], unsent[1])
        for frame in self.session._take_unsent(most):
            if not frame.is_binary:
                _, data, offset = json.loads(frame.payload[frame.payload.index(b"[") :])
                self.heard.append((data, offset))

    def start(self) -> "asyncio.Task[bool]":
        return asyncio.create_task(self.replay.run(lambda: self.is_wanted))

    async def finish(self, running: "asyncio.Task[bool]", most: int = MAX_UNSENT_FRAMES) -> bool:
        """Poll until it is over; whether all was sent."""
        async with asyncio.timeout(5):
            while not running.done():
                self.poll(most)
                await asyncio.sleep(0)
        self.poll()
        return await running

    def data(self) -> list[object]:
        return [data for data, _ in self.heard]


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_what_was_missed_is_sent_in_order_with_its_offsets(desk: Desk) -> None:
    desk.tell(1, 2)
    desk.tell("elsewhere", room="another")
    desk.tell(3)
    assert await desk.finish(desk.start())
    assert desk.heard == [
        (data, desk.recovery.offset(position)) for data, position in ((1, 1), (2, 2), (3, 4))
    ]
    assert desk.replay.position == 4


async def test_who_missed_nothing_is_done_at_once(desk: Desk) -> None:
    assert await desk.replay.run(lambda: True)
    desk.tell("elsewhere", room="another")
    assert await desk.replay.run(lambda: True)
    assert desk.heard == []


async def test_it_begins_behind_its_position(desk: Desk) -> None:
    desk.tell(1, 2, 3)
    desk.replay.position = 2
    assert await desk.finish(desk.start())
    assert desk.data() == [3]


def of_bytes(desk: Desk) -> int:
    """Many more bytes than a client may leave unsent; how many events."""
    desk.tell(*["x" * 10_000] * 1_000)
    return 1_000


def of_frames(desk: Desk) -> int:
    desk.tell(*range(3 * MAX_UNSENT_FRAMES))
    return 3 * MAX_UNSENT_FRAMES


def of_attachments(desk: Desk) -> int:
    desk.tell(*[{"all": [b"x"] * 50}] * 500)
    return 500


@pytest.mark.parametrize("tell", [of_bytes, of_frames, of_attachments])
@pytest.mark.parametrize("max_buffer_bytes", [100_000, 1_048_576])
@pytest.mark.parametrize("most", [16, MAX_UNSENT_FRAMES])
async def test_however_much_it_is_no_client_that_takes_it_is_cut_off(
    tell: Callable[[Desk], int], max_buffer_bytes: int, most: int
) -> None:
    desk = Desk(replace(OPTIONS, max_buffer_bytes=max_buffer_bytes))
    count = tell(desk)
    assert await desk.finish(desk.start(), most)
    assert desk.session.is_open
    assert len(desk.heard) == count
    frames, size_bytes = desk.most_unsent
    assert frames < CHUNK_FRAMES + 100
    assert size_bytes < min(CHUNK_BYTES, max_buffer_bytes) + 50_000


def paced(desk: Desk) -> "asyncio.Task[bool]":
    """Begin with more than is sent at a time."""
    desk.tell(*["x" * 100_000] * 4)
    return desk.start()


async def until_waiting(desk: Desk) -> int:
    """Have it send what it sends at a time; how much that was."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return len(desk.session._unsent)


async def test_what_is_said_meanwhile_follows(desk: Desk) -> None:
    running = paced(desk)
    assert await until_waiting(desk) == 3
    desk.tell("meanwhile")
    assert await desk.finish(running)
    assert desk.data() == ["x" * 100_000] * 4 + ["meanwhile"]
    assert desk.recovery.missed(desk.trail, desk.stays, desk.replay.position) == []


async def test_a_room_entered_meanwhile_counts_and_one_left_counts_no_more(desk: Desk) -> None:
    running = paced(desk)
    await until_waiting(desk)
    desk.stays = {"new": Stay(since=desk.recovery.log.head)}
    desk.tell("to those who stayed")
    desk.tell("to those who came", room="new")
    assert await desk.finish(running)
    assert desk.data() == ["x" * 100_000] * 4 + ["to those who came"]


async def test_it_stops_when_it_is_not_wanted_any_more(desk: Desk) -> None:
    running = paced(desk)
    await until_waiting(desk)
    desk.is_wanted = False
    assert not await desk.finish(running)
    assert len(desk.heard) == 3
    assert not await desk.replay.run(lambda: False)


async def test_it_stops_when_the_session_ends(desk: Desk) -> None:
    running = paced(desk)
    await until_waiting(desk)
    desk.is_wanted = False
    desk.session.abort(Reason.TRANSPORT_CLOSE)
    assert not await asyncio.wait_for(running, 1)


async def test_a_client_that_takes_too_long_is_not_waited_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.realtime.replay.REPLAY_TIMEOUT_S", 0.02)
    assert not await asyncio.wait_for(paced(desk), 1)
    assert len(desk.session._unsent) == 3


@pytest.mark.parametrize(("said", "is_done"), [(0, True), (5, True), (6, False)])
async def test_a_packet_that_is_gone_before_it_could_be_sent_is_never_passed_over(
    said: int,
    is_done: bool,  # noqa: FBT001 - a table's column
) -> None:
    """What is being sent may go from the log; what was not looked at yet may not."""
    desk = Desk(replace(OPTIONS, recovery=RecoveryOptions(max_log_entries=5)))
    running = paced(desk)
    await until_waiting(desk)
    desk.tell(*range(said))
    assert await desk.finish(running) is is_done
    assert desk.data() == ["x" * 100_000] * 4 + (list(range(said)) if is_done else [])


async def test_what_was_said_to_others_may_go_while_it_is_sent() -> None:
    desk = Desk(replace(OPTIONS, recovery=RecoveryOptions(max_log_entries=7)))
    desk.tell(*["x" * 100_000] * 4)
    desk.tell(1, 2, 3, room="another")
    running = desk.start()
    await until_waiting(desk)
    desk.tell(*range(6), room="another")
    assert desk.recovery.log.dropped == 6
    assert await desk.finish(running)
    assert desk.data() == ["x" * 100_000] * 4


async def test_whether_all_is_kept_is_known_before_it_begins(desk: Desk) -> None:
    desk.tell(1, 2)
    assert desk.replay.is_complete()
    desk.recovery.log.clear()
    assert not desk.replay.is_complete()
    assert not await desk.replay.run(lambda: True)
    desk.replay.position = 2
    assert await desk.replay.run(lambda: True)


async def test_too_much_is_told_by_bytes_and_by_what_was_missed_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.tell("x" * 1_000, "x" * 1_000)
    desk.tell("x" * 1_000, room="another")
    (entry, _) = desk.recovery.missed(desk.trail, desk.stays, 0)
    for most_bytes, position, is_too_much in (
        (2 * entry.packet.size_bytes, 0, False),
        (2 * entry.packet.size_bytes - 1, 0, True),
        (entry.packet.size_bytes, 1, False),
        (0, 2, False),
    ):
        monkeypatch.setattr("server.realtime.replay.MAX_REPLAY_BYTES", most_bytes)
        desk.replay.position = position
        assert desk.replay.is_too_much(desk.stays) is is_too_much


async def test_of_what_is_sent_again_the_log_keeps_the_bytes_once(desk: Desk) -> None:
    desk.tell(1, 2)
    assert await desk.finish(desk.start())
    assert all(entry.packet._marked is entry.packet._plain is None for entry in desk.recovery.log._entries)
