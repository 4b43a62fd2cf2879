from collections.abc import Collection, Sequence

import msgspec
import pytest

from namespaces.fanout import _KINDS, Fanout, Retelling
from namespaces.sessions import told_channel
from server.domain.errors import UnavailableError
from server.domain.models import Head
from server.realtime.bus import Bus, BusAwayError, Control, ControlHandler, Emit, Order, SourceAwayError
from server.services import notices
from server.services.notices import (
    LoginEnded,
    MembershipChanged,
    Place,
    ProfileChanged,
    RoomChanged,
    SocketsEnded,
    Tell,
)
from server.views import RoomJoined, RoomLeft, RoomUpdated
from tests.services import Site, break_


class WireBus(Bus):
    """Takes every entry over a wire of JSON to the one server there is."""

    def __init__(self) -> None:
        self.entries: list[Emit | Control] = []
        self._handlers: list[ControlHandler] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def is_heard(self) -> bool:
        return True

    async def follow(self, keys: Collection[str]) -> None: ...

    def owe(self, key: str, first: int, last: int) -> None: ...

    def read_anew(self) -> None: ...

    def subscribe(self, handler: ControlHandler) -> None:
        self._handlers.append(handler)

    async def publish(self, entries: Sequence[Emit | Control]) -> None:
        for entry in entries:
            self.entries.append(entry)
            if isinstance(entry, Control):
                heard = msgspec.json.decode(msgspec.json.encode(entry), type=Control)
                for handler in self._handlers:
                    await handler(heard)


CONTROLS: list[notices.Control] = [
    MembershipChanged(room_id="room", user_ids=frozenset(["juan", "ana"]), left_because="deleted"),
    RoomChanged(room_id="room"),
    ProfileChanged(user_id="juan"),
    LoginEnded(user_id="juan", login_id=None),
    SocketsEnded(user_id="juan", connection_ids=frozenset(["1", "2"]), limit=20),
]


def test_every_control_notice_has_a_name_on_the_bus() -> None:
    assert set(_KINDS.values()) == set(notices.Control.__args__)


async def test_a_control_notice_reaches_every_follower_as_it_was_published() -> None:
    fanout, heard = Fanout(WireBus()), list[tuple[str, notices.Control]]()

    async def first(notice: notices.Control) -> None:
        heard.append(("first", notice))

    async def second(notice: notices.Control) -> None:
        heard.append(("second", notice))

    fanout.follow(first)
    fanout.follow(second)
    await fanout.publish(*CONTROLS)
    assert heard == [(who, notice) for notice in CONTROLS for who in ("first", "second")]


async def test_notices_go_to_the_bus_in_their_order_and_in_one_call() -> None:
    bus = WireBus()
    left = Tell(event="room_left", data=RoomLeft(room_id="room", reason="left"), users=frozenset(["ana"]))
    await Fanout(bus).publish(CONTROLS[0], left)
    control, emit = bus.entries
    assert isinstance(control, Control)
    assert isinstance(emit, Emit)
    assert (control.name, emit.event) == ("membership_changed", "room_left")


@pytest.mark.parametrize(
    ("rooms", "users", "channels"),
    [
        ([], ["ana"], {"user:ana"}),
        (["a"], [], {"room:a"}),
        (["a", "b"], ["a", "b"], {"room:a", "room:b", "user:a", "user:b"}),
    ],
)
async def test_a_tell_goes_once_to_all_rooms_and_people(
    rooms: list[str], users: list[str], channels: set[str]
) -> None:
    """A room and a person of one name do not meet."""
    bus = WireBus()
    data = RoomJoined(room_id="ñ")
    await Fanout(bus).publish(
        Tell(event="room_joined", data=data, rooms=frozenset(rooms), users=frozenset(users))
    )
    (emit,) = bus.entries
    assert isinstance(emit, Emit)
    assert emit.rooms == channels
    assert isinstance(emit.data, msgspec.Raw)
    assert bytes(emit.data) == '{"room_id":"ñ"}'.encode()


async def test_who_knows_of_a_membership_or_is_back_in_the_room_is_not_told() -> None:
    bus = WireBus()
    left, joined = RoomLeft(room_id="a", reason="removed"), RoomJoined(room_id="a")
    changed = RoomUpdated(room_id="a", name="A", member_count=1)
    tells = [Tell(event="told", data=each, users=frozenset(["ana"])) for each in (left, joined, changed)]
    await Fanout(bus).publish(*tells)
    excepted = [entry.except_rooms for entry in bus.entries if isinstance(entry, Emit)]
    assert excepted == [{told_channel(left), "room:a"}, {told_channel(joined)}, set()]


@pytest.mark.parametrize("volatile", [False, True])
async def test_a_tell_is_as_volatile_as_it_says(*, volatile: bool) -> None:
    bus = WireBus()
    data = RoomJoined(room_id="a")
    await Fanout(bus).publish(
        Tell(event="room_joined", data=data, users=frozenset(["ana"]), volatile=volatile)
    )
    (emit,) = bus.entries
    assert isinstance(emit, Emit)
    assert emit.volatile is volatile


@pytest.mark.parametrize("said_by", [None, "ana"])
async def test_a_change_of_a_room_has_its_place_in_that_room_and_says_where_its_log_ends_and_who_wrote(
    said_by: str | None,
) -> None:
    bus = WireBus()
    head = Head(rev=7, last_seq=5, at=1_700_000_000_000)
    of_room = Place("room", 7, is_gapless=True, head=head, said_by=said_by)
    await Fanout(bus).publish(
        Tell(event="a", data=RoomJoined(room_id="x"), place=of_room),
        Tell(event="b", data=RoomJoined(room_id="x"), place=Place("status:ana", 9, is_gapless=False)),
    )
    place, other = [entry.order for entry in bus.entries if isinstance(entry, Emit)]
    assert place is not None
    assert (place.key, place.number, place.is_gapless) == ("room:room", 7, True)
    assert other == Order("status:ana", 9, is_gapless=False)
    learned: list[tuple[str, Head]] = []
    said: list[tuple[str, str, int]] = []
    source = Retelling()
    source.learn = lambda *what: learned.append(what)
    source.said = lambda *what: said.append(what)
    source.passed(place.key, place.number, place.memo)
    for unknown in ("", "of another version", "1"):
        source.passed(place.key, 8, unknown)
    assert learned == [("room", head)]
    assert said == ([("room", "ana", head.at)] if said_by else [])


@pytest.mark.parametrize("notice", CONTROLS)
async def test_who_says_that_somebody_is_out_wants_to_know_that_all_servers_will(
    notice: notices.Control,
) -> None:
    bus = WireBus()
    await Fanout(bus).publish(notice)
    (control,) = bus.entries
    assert isinstance(control, Control)
    is_out = isinstance(notice, LoginEnded) or getattr(notice, "left_because", None) is not None
    assert control.is_strict is is_out


async def test_what_the_other_servers_cannot_be_told_is_unavailable() -> None:
    class AwayBus(WireBus):
        async def publish(self, entries: Sequence[Emit | Control]) -> None:  # noqa: ARG002 - the protocol's
            raise BusAwayError

    with pytest.raises(UnavailableError):
        await Fanout(AwayBus()).publish(CONTROLS[0])


async def test_what_the_bus_did_not_bring_is_read_as_it_would_have_come(site: Site) -> None:
    await site.people("juan", "ana")
    room_id = await site.group("juan", "ana")
    bus = WireBus()
    for _ in range(2):
        await site.say("juan", room_id)
    await Fanout(bus).publish(*await site.publisher.until_told("chat_message", 2))
    source = Retelling()
    source.teller, source.directory = site.teller, site.directory
    key = f"room:{room_id}"
    assert await source.emits_after(key, 0) == bus.entries
    assert await source.emits_after(key, 1) == bus.entries[1:]
    assert await source.heads([key, "room:none"]) == {key: 2, "room:none": 0}
    break_(site.storage, "changes_after", "heads")
    for asked in (source.emits_after(key, 0), source.heads([key])):
        with pytest.raises(SourceAwayError):
            await asked
