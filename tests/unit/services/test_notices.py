import msgspec
import pytest

from server.services.notices import (
    Control,
    LoginEnded,
    MembershipChanged,
    ProfileChanged,
    RoomChanged,
    SocketsEnded,
)

NOTICES: list[Control] = [
    MembershipChanged(room_id="room", user_ids=frozenset(["juan", "ana"]), left_because="removed"),
    MembershipChanged(room_id="room", user_ids=frozenset()),
    RoomChanged(room_id="room"),
    ProfileChanged(user_id="juan"),
    LoginEnded(user_id="juan", login_id="login"),
    LoginEnded(user_id="juan", login_id=None),
    SocketsEnded(user_id="juan", connection_ids=frozenset(["1", "2"]), limit=20),
]


@pytest.mark.parametrize("notice", NOTICES)
def test_a_control_notice_survives_the_way_to_another_server(notice: Control) -> None:
    sent = msgspec.json.encode(msgspec.to_builtins(notice))
    assert msgspec.convert(msgspec.json.decode(sent), type(notice)) == notice
