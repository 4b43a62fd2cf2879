"""Who may do what: to a stranger a room is as one that is not there, and among members the role decides."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec
import pytest
import pytest_asyncio

from server import events
from tests.harness import (
    Api,
    Client,
    Json,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    refusal,
    running_server,
    site_token,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOWHERE = "0" * 32
IN_ROOM = [
    name for name, event in events.CLIENT_EVENTS.items() if "room_id" in event.payload.__struct_fields__
]
numbers = itertools.count()


class Room(NamedTuple):
    """A room with a message of its owner and one of its member; everybody here is connected."""

    room_id: str
    people: dict[str, Client]
    messages: dict[str, str]

    async def state(self) -> Json:
        """What its owner sees of it, history and members' roles too."""
        named = {"rooms": {self.room_id: 0}}
        return await self.people["owner"].call("sync", named)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """One server for all of this file; none of it may cost it a stack trace."""
    env = {"TERTULIA_LIMITS__ENABLED": "false"}
    async with running_server(tmp_path_factory.mktemp("permissions"), env) as running:
        yield running
        assert running.faults() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    async with http_api(server) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: ServerProcess) -> AsyncIterator[dict[str, Client]]:
    """One person for each role, a second one for some, and one who is in no room."""
    names = ("owner", "admin", "member", "owner2", "admin2", "member2", "stranger")
    async with connected(server.url, *map(site_token, names)) as clients:
        yield dict(zip(names, clients, strict=True))


@pytest_asyncio.fixture(loop_scope="module")
async def room(people: dict[str, Client]) -> Room:
    owner = people["owner"]
    others = [name for name in people if name not in ("owner", "stranger")]
    wanted = {"kind": "group", "name": f"Room {next(numbers)}", "member_ids": others}
    room_id = (await owner.call("create_room", wanted))["room"]["id"]
    for name in others:
        role = name.rstrip("2")
        if role != "member":
            await owner.call("set_role", {"room_id": room_id, "user_id": name, "role": role})
    messages = {}
    for name in ("owner", "member"):
        said = await people[name].call("chat_message", {"room_id": room_id, "content": f"{name} was here"})
        messages[name] = said["message"]["id"]
    return Room(room_id, people, messages)


def sample(event: str, room_id: str, message_id: str) -> Json:
    """A payload that a member's event could have."""
    known = {"room_id": room_id, "message_id": message_id, "user_id": "member", "content": "Hola!"}
    known |= {"reaction_type": "like", "role": "admin"}
    payload: Json = {"is_typing": True} if event == "typing" else {}
    for field in msgspec.structs.fields(events.CLIENT_EVENTS[event].payload):
        if field.name in known and (field.required or field.name in ("room_id", "message_id")):
            payload[field.name] = known[field.name]
    return payload


@pytest.mark.parametrize("event", IN_ROOM)
async def test_to_a_stranger_a_foreign_room_is_not_there(event: str, room: Room) -> None:
    stranger, before = room.people["stranger"], await room.state()
    message_id = room.messages["member"]
    foreign = await stranger.ask(event, sample(event, room.room_id, message_id))
    nowhere = await stranger.ask(event, sample(event, NOWHERE, message_id))
    assert foreign == nowhere
    assert (foreign["error"]["code"], foreign["error"]["field"]) == ("not_found", "room_id")
    assert await room.state() == before
    assert (await stranger.call("sync"))["rooms"] == []


@pytest.mark.parametrize("event", IN_ROOM)
async def test_a_member_may_do_what_the_stranger_tried(event: str, room: Room) -> None:
    """Without this the refusals would prove nothing."""
    answer = await room.people["owner"].ask(event, sample(event, room.room_id, room.messages["owner"]))
    assert answer["ok"], answer


async def test_a_stranger_learns_nothing_by_sync_or_by_connecting_to_a_room(
    room: Room, server: ServerProcess, api: Api
) -> None:
    synced = await room.people["stranger"].call("sync", {"rooms": {room.room_id: 0, NOWHERE: 0}})
    assert (synced["rooms"], synced["left"], synced["online"]) == ([], sorted([room.room_id, NOWHERE]), [])
    token = site_token("stranger")
    answers = []
    for room_id in (room.room_id, NOWHERE, "\ud800", "", "' OR 1=1"):
        async with raw_socket(api) as socket:
            await socket.send(f"40/chat,{json.dumps({'token': token, 'room_id': room_id})}")
            answers.append(await socket.receive_packet("44/chat,"))
    assert answers == [answers[0]] * len(answers)
    assert answers[0]["data"] == {"code": "not_found", "retry": "never"}
    refused = await refusal(server.url, {"token": token, "room_id": 7})
    assert refused["data"] == {"code": "invalid", "retry": "never"}


ROUTES: list[tuple[str, str, Json | None]] = [
    ("GET", "", None),
    ("PATCH", "", {"name": "Mine"}),
    ("DELETE", "", None),
    ("GET", "/members", None),
    ("POST", "/members", {"user_id": "stranger"}),
    ("DELETE", "/members/member", None),
    ("DELETE", "/members/stranger", None),
    ("GET", "/messages", None),
    ("POST", "/messages", {"content": "Hola!"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_over_http_too_a_foreign_room_is_not_there(
    method: str, path: str, body: Json | None, room: Room, api: Api
) -> None:
    before = await room.state()
    token = site_token("stranger")
    foreign = await api.call(method, f"/api/rooms/{room.room_id}{path}", body, token=token)
    nowhere = await api.call(method, f"/api/rooms/{NOWHERE}{path}", body, token=token)
    assert foreign == nowhere
    assert (foreign[0], foreign[1]["error"]["code"]) == (404, "not_found")
    nobody = await api.call(method, f"/api/rooms/{room.room_id}{path}", body)
    assert (nobody[0], nobody[1]["error"]["code"]) == (401, "unauthenticated")
    assert await room.state() == before


async def test_whoever_was_removed_is_a_stranger_again(room: Room) -> None:
    gone = room.people["member2"]
    await room.people["owner"].call("remove_member", {"room_id": room.room_id, "user_id": "member2"})
    before = await room.state()
    for event in IN_ROOM:
        answer = await gone.ask(event, sample(event, room.room_id, room.messages["member"]))
        assert answer["error"]["code"] == "not_found", event
    assert await room.state() == before


# What is done, as an event or an HTTP call, to whom, and the least role that may.
ACTIONS: dict[str, tuple[str, Json, str]] = {
    "add": ("add_member", {"user_id": "stranger"}, "admin"),
    "add who is in already": ("add_member", {"user_id": "member2"}, "admin"),
    "remove a member": ("remove_member", {"user_id": "member2"}, "admin"),
    "remove an admin": ("remove_member", {"user_id": "admin2"}, "admin"),
    "remove an owner": ("remove_member", {"user_id": "owner2"}, "owner"),
    "make a member an admin": ("set_role", {"user_id": "member2", "role": "admin"}, "admin"),
    "leave a member one": ("set_role", {"user_id": "member2", "role": "member"}, "admin"),
    "make an admin a member": ("set_role", {"user_id": "admin2", "role": "member"}, "admin"),
    "make a member an owner": ("set_role", {"user_id": "member2", "role": "owner"}, "owner"),
    "make an admin an owner": ("set_role", {"user_id": "admin2", "role": "owner"}, "owner"),
    "make an owner a member": ("set_role", {"user_id": "owner2", "role": "member"}, "owner"),
    "leave an owner one": ("set_role", {"user_id": "owner2", "role": "owner"}, "owner"),
    "delete the message of an owner": ("delete_message", {"message_id": "owner"}, "admin"),
    "edit the message of another": ("edit_message", {"message_id": "member", "content": "!"}, "nobody"),
    "rename": ("PATCH", {"name": "Renamed"}, "admin"),
    "delete the room": ("DELETE", {}, "owner"),
}
RANKS = {"member": 0, "admin": 1, "owner": 2, "nobody": 3}


async def do(room: Room, api: Api, actor: str, action: str) -> str:
    """Do it; the code of the answer, or "ok"."""
    event, payload, _ = ACTIONS[action]
    payload = {**payload}
    if event in ("PATCH", "DELETE"):
        _, body = await api.call(
            event, f"/api/rooms/{room.room_id}", payload or None, token=site_token(actor)
        )
        return str(body["error"]["code"]) if "error" in body else "ok"
    if "message_id" in payload:
        payload["message_id"] = room.messages[payload["message_id"]]
    answer = await room.people[actor].ask(event, {"room_id": room.room_id, **payload})
    return "ok" if answer["ok"] else str(answer["error"]["code"])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("actor", ["member", "admin", "owner2"])
async def test_the_role_decides(actor: str, action: str, room: Room, api: Api) -> None:
    before = await room.state()
    members_before = await members(room, api)
    least = ACTIONS[action][2]
    # The message that nobody else may edit is the member's own.
    is_allowed = RANKS[actor.rstrip("2")] >= RANKS[least] or (least == "nobody" and actor == "member")
    assert await do(room, api, actor, action) == ("ok" if is_allowed else "forbidden")
    if not is_allowed:
        assert await room.state() == before
        assert await members(room, api) == members_before
    said = await room.people["member"].ask("chat_message", {"room_id": room.room_id, "content": "on"})
    assert said["ok"] == (action != "delete the room" or not is_allowed)


async def members(room: Room, api: Api) -> dict[str, str]:
    path = f"/api/rooms/{room.room_id}/members"
    _, body = await api.call("GET", path, token=site_token("owner"))
    return {each["user"]["id"]: each["role"] for each in body["members"]}


async def test_nobody_is_above_the_rules_in_a_direct_room(room: Room, api: Api) -> None:
    owner = room.people["owner"]
    made = await owner.call("open_direct", {"user_id": "member"})
    direct = Room(made["room"]["id"], room.people, {})
    before = await direct.state()
    for action, (event, _, _) in ACTIONS.items():
        if not event.endswith("_message"):
            assert await do(direct, api, "owner", action) == "forbidden", action
    for user_id in ("owner", "member"):
        answer = await owner.ask("remove_member", {"room_id": direct.room_id, "user_id": user_id})
        assert answer["error"]["code"] == ("conflict" if user_id == "owner" else "forbidden")
    assert (await owner.ask("leave_room", {"room_id": direct.room_id}))["error"]["code"] == "conflict"
    assert await direct.state() == before


async def test_what_is_deleted_stays_so(room: Room) -> None:
    owner, member = room.people["owner"], room.people["member"]
    where = {"room_id": room.room_id, "message_id": room.messages["member"]}
    await owner.call("delete_message", where)
    before = await room.state()
    for event, more in (
        ("react_message", {"reaction_type": "like"}),
        ("react_message", {"reaction_type": "like", "action": "remove"}),
        ("edit_message", {"content": "back"}),
    ):
        error = (await member.ask(event, {**where, **more}))["error"]
        assert (error["code"], error["field"]) == ("not_found", "message_id")
    again = await member.call("delete_message", where)
    assert (again["message"]["content"], again["message"]["deleted_at"] is not None) == ("", True)
    assert await room.state() == before
