from collections.abc import Sequence

import msgspec
import pytest

from namespaces.fanout import _KINDS, Fanout
from server.realtime.bus import Bus, Control, ControlHandler, Emit
from server.services import notices
from server.services.notices import LoginEnded, MembershipChanged, ProfileChanged, RoomChanged, Tell
from server.views import RoomJoined, RoomLeft


class WireBus(Bus):
    """Takes every entry over a wire of JSON to the one server there is."""

    def __init__(self) -> None:
        self.entries: list[Emit | Control] = []
        self._handlers: list[ControlHandler] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def is_heard(self) -> bool:
        return True

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
