"""Rooms, who is in them and who may do what."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable

import pytest

from tests.harness import Api, Client, Json, ServerProcess, caught_up, connected, site_token

pytestmark = [pytest.mark.every_store, pytest.mark.clustered(2)]

ROLES = ("owner", "admin", "member")


def _people(server: ServerProcess, *user_ids: str) -> contextlib.AbstractAsyncContextManager[list[Client]]:
    return connected(server.url, *map(site_token, user_ids))


async def _group(owner: Client, *member_ids: str, kind: str = "group") -> str:
    made = await owner.call("create_room", {"kind": kind, "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


async def _roles(api: Api, room_id: str, asker: str) -> dict[str, str]:
    status, page = await api.call("GET", f"/api/rooms/{room_id}/members", token=site_token(asker))
    assert status == 200, page
    return {member["user"]["id"]: member["role"] for member in page["members"]}


async def test_a_created_room_has_its_members_and_all_their_devices_hear_of_it(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", "ana", "eva") as (juan, ana, ana_phone, eva):
        wanted = {"kind": "group", "name": "  Tapas ", "member_ids": ["ana", "ana", "juan"]}
        room = (await juan.call("create_room", wanted))["room"]
        assert (room["kind"], room["name"], room["role"]) == ("group", "Tapas", "owner")
        assert (room["member_count"], room["rev"], room["last_seq"], room["unread"]) == (2, 0, 0, 0)
        for device in (juan, ana, ana_phone):
            assert await device.heard("room_joined") == {"room_id": room["id"]}
            joined = [await device.heard("member_joined", _about(who)) for who in ("juan", "ana")]
            assert [each["member_count"] for each in joined] == [2, 2]
        await caught_up(juan, room["id"], ana, ana_phone)
        assert eva.events == []


async def test_a_repeated_create_room_answers_the_first_room(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana") as (juan, ana):
        wanted = {"kind": "group", "name": "Tapas", "member_ids": ["ana"], "client_msg_id": "c1"}
        first, second = await asyncio.gather(
            juan.call("create_room", wanted), juan.call("create_room", wanted)
        )
        assert first["room"]["id"] == second["room"]["id"]
        assert await juan.refused("create_room", {**wanted, "name": "Paella"}) == "conflict"
        assert await juan.refused("create_room", {**wanted, "kind": "public"}) == "conflict"
        await caught_up(juan, first["room"]["id"], ana)
        assert len(ana.received("room_joined")) == 1


async def test_members_who_do_not_exist_make_no_room(server: ServerProcess) -> None:
    async with _people(server, "juan") as (juan,):
        wanted = {"kind": "group", "name": "Tapas", "member_ids": ["nobody"]}
        answer = await juan.ask("create_room", wanted)
        assert (answer["error"]["code"], answer["error"]["field"]) == ("not_found", "member_ids")
        assert (await juan.call("sync"))["rooms"] == []


async def test_anybody_joins_and_leaves_a_public_room(server: ServerProcess, api: Api) -> None:
    async with _people(server, "juan", "ana", "ana") as (juan, ana, ana_phone):
        room_id = await _group(juan, kind="public")
        await juan.call("chat_message", {"room_id": room_id, "content": "before"})
        _, listed = await api.call("GET", "/api/rooms?scope=public&query=TAP", token=site_token("ana"))
        assert [(room["id"], room["role"], room["last_message"]) for room in listed["rooms"]] == [
            (room_id, None, None)
        ]
        for _ in range(2):
            room = (await ana.call("join_room", {"room_id": room_id}))["room"]
            assert (room["role"], room["member_count"], room["last_read_seq"], room["unread"]) == (
                "member",
                2,
                1,
                0,
            )
        history = await ana.call("history", {"room_id": room_id})
        assert [message["content"] for message in history["messages"]] == ["before"]
        await ana.call("leave_room", {"room_id": room_id})
        left = await juan.heard("member_left")
        assert (left["room_id"], left["user"]["id"], left["member_count"]) == (room_id, "ana", 1)
        for device in (ana, ana_phone):
            assert await device.heard("room_left") == {"room_id": room_id, "reason": "left"}
        assert len(juan.received("member_joined")) == 2, "juan's own and ana's first"
        for event in ("leave_room", "history"):
            assert await ana.refused(event, {"room_id": room_id}) == "not_found"


async def test_a_room_that_one_may_not_see_looks_like_one_that_is_not_there(server: ServerProcess) -> None:
    async with _people(server, "juan", "eva") as (juan, eva):
        room_id = await _group(juan)
        sent = await juan.call("chat_message", {"room_id": room_id, "content": "secret"})
        message_id = sent["message"]["id"]
        events: dict[str, Json] = {
            "chat_message": {"content": "x"},
            "edit_message": {"message_id": message_id, "content": "x"},
            "delete_message": {"message_id": message_id},
            "react_message": {"message_id": message_id, "reaction_type": "like"},
            "read_message": {"seq": 1},
            "typing": {"is_typing": True},
            "join_room": {},
            "leave_room": {},
            "add_member": {"user_id": "eva"},
            "remove_member": {"user_id": "juan"},
            "set_role": {"user_id": "juan", "role": "member"},
            "history": {},
        }
        for event, payload in events.items():
            hidden = await eva.ask(event, {**payload, "room_id": room_id})
            absent = await eva.ask(event, {**payload, "room_id": "nowhere"})
            assert hidden == absent, event
            assert hidden["error"]["code"] == "not_found", event
        await caught_up(juan, room_id, juan)
        assert eva.events == []


async def test_roles_decide_who_may_change_what(server: ServerProcess) -> None:
    table: list[tuple[str, Json, set[str]]] = [
        ("add_member", {"user_id": "newcomer"}, {"owner", "admin"}),
        ("remove_member", {"user_id": "member2"}, {"owner", "admin"}),
        ("remove_member", {"user_id": "admin2"}, {"owner", "admin"}),
        ("remove_member", {"user_id": "owner2"}, {"owner"}),
        ("set_role", {"user_id": "member2", "role": "admin"}, {"owner", "admin"}),
        ("set_role", {"user_id": "admin2", "role": "member"}, {"owner", "admin"}),
        ("set_role", {"user_id": "member2", "role": "owner"}, {"owner"}),
        ("set_role", {"user_id": "owner2", "role": "member"}, {"owner"}),
    ]
    names = [f"{role}{number}" for role in ROLES for number in (1, 2)]
    async with _people(server, *names, "newcomer") as clients:
        people = dict(zip(names, clients, strict=False))
        for (event, more, allowed), actor in itertools.product(table, ROLES):
            room_id = await _group(people["owner1"], *names)
            for name in ("owner2", "admin1", "admin2"):
                promotion = {"room_id": room_id, "user_id": name, "role": name[:-1]}
                await people["owner1"].call("set_role", promotion)
            answer = await people[f"{actor}1"].ask(event, {"room_id": room_id, **more})
            assert answer["ok"] == (actor in allowed), (actor, event, more, answer)
            assert answer["ok"] or answer["error"]["code"] == "forbidden"


async def test_a_new_role_holds_at_once_and_is_told(server: ServerProcess) -> None:
    async with _people(server, "juan", "ana", "eva") as (juan, ana, _eva):
        room_id = await _group(juan, "ana")
        adding = {"room_id": room_id, "user_id": "eva"}
        assert await ana.refused("add_member", adding) == "forbidden"
        await juan.call("set_role", {"room_id": room_id, "user_id": "ana", "role": "admin"})
        assert await ana.heard("room_updated") == {"room_id": room_id, "name": "Tapas", "member_count": 2}
        assert (await ana.call("add_member", adding))["room"]["member_count"] == 3
        await juan.call("set_role", {"room_id": room_id, "user_id": "ana", "role": "member"})
        assert await ana.refused("remove_member", adding) == "forbidden"


async def test_a_room_keeps_an_owner(server: ServerProcess, api: Api) -> None:
    """The last owner hands over; one who leaves without that is followed by the oldest member."""
    async with _people(server, "juan", "ana", "eva") as (juan, ana, eva):
        room_id = await _group(juan)
        for name in ("eva", "ana"):
            await juan.call("add_member", {"room_id": room_id, "user_id": name})
        step_down = {"room_id": room_id, "user_id": "juan", "role": "member"}
        assert await juan.refused("set_role", step_down) == "conflict"
        await juan.call("set_role", {"room_id": room_id, "user_id": "ana", "role": "owner"})
        await juan.call("set_role", step_down)
        assert await _roles(api, room_id, "ana") == {"juan": "member", "eva": "member", "ana": "owner"}
        await ana.call("leave_room", {"room_id": room_id})
        assert await _roles(api, room_id, "eva") == {"juan": "owner", "eva": "member"}
        await juan.call("remove_member", {"room_id": room_id, "user_id": "juan"})
        assert await _roles(api, room_id, "eva") == {"eva": "owner"}
        await eva.call("add_member", {"room_id": room_id, "user_id": "ana"})


async def test_two_people_have_one_direct_room_however_many_open_it_at_once(server: ServerProcess) -> None:
    async with _people(server, "juan", "juan", "ana", "ana") as (juan, juan_phone, ana, ana_phone):
        opened = await asyncio.gather(
            *(device.call("open_direct", {"user_id": "ana"}) for device in (juan, juan_phone) * 5),
            *(device.call("open_direct", {"user_id": "juan"}) for device in (ana, ana_phone) * 5),
            juan.call("chat_message", {"to_user_id": "ana", "content": "Hola!"}),
            ana.call("chat_message", {"to_user_id": "juan", "content": "Hola!"}),
        )
        rooms = [answer["room"] for answer in opened if "room" in answer]
        messages = [answer["message"] for answer in opened if "message" in answer]
        room_ids = {room["id"] for room in rooms} | {message["room_id"] for message in messages}
        assert len(room_ids) == 1
        assert {(room["kind"], room["name"], room["member_count"]) for room in rooms} == {("direct", None, 2)}
        assert {room["peer"]["id"] for room in rooms[:10]} == {"ana"}
        assert {room["peer"]["id"] for room in rooms[10:]} == {"juan"}
        await caught_up(juan, room_ids.pop(), juan, juan_phone, ana, ana_phone)
        assert [len(each.received("room_joined")) for each in (juan, juan_phone, ana, ana_phone)] == [1] * 4


async def test_a_direct_room_stays_as_it_is(server: ServerProcess, api: Api) -> None:
    async with _people(server, "juan", "ana", "eva") as (juan, ana, _eva):
        room_id = (await juan.call("open_direct", {"user_id": "ana"}))["room"]["id"]
        for person in (juan, ana):
            assert await person.refused("leave_room", {"room_id": room_id}) == "conflict"
        for user_id in ("ana", "eva"):
            member = {"room_id": room_id, "user_id": user_id}
            assert await juan.refused("add_member", member) == "forbidden"
            assert await juan.refused("set_role", {**member, "role": "admin"}) == "forbidden"
            assert await juan.refused("remove_member", member) == "forbidden"
        status, _ = await api.call("DELETE", f"/api/rooms/{room_id}", token=site_token("juan"))
        assert status == 403
        assert await juan.refused("open_direct", {"user_id": "juan"}) == "invalid"
        assert await juan.refused("open_direct", {"user_id": "nobody"}) == "not_found"
        assert await juan.refused("chat_message", {"to_user_id": "nobody", "content": "x"}) == "not_found"


async def test_a_renamed_and_then_deleted_room(server: ServerProcess, api: Api) -> None:
    async with _people(server, "juan", "ana", "ana") as (juan, ana, ana_phone):
        room_id = await _group(juan, "ana")
        path, juan_token = f"/api/rooms/{room_id}", site_token("juan")
        assert (await api.call("PATCH", path, {"name": "Paella"}, token=site_token("ana")))[0] == 403
        _, renamed = await api.call("PATCH", path, {"name": "Paella"}, token=juan_token)
        assert renamed["room"]["name"] == "Paella"
        assert (await ana.heard("room_updated"))["name"] == "Paella"
        assert (await api.call("DELETE", path, token=site_token("ana")))[0] == 403
        assert await api.call("DELETE", path, token=juan_token) == (200, {})
        for device in (juan, ana, ana_phone):
            assert await device.heard("room_left") == {"room_id": room_id, "reason": "deleted"}
            assert await device.refused("chat_message", {"room_id": room_id, "content": "x"}) == "not_found"
            synced = await device.call("sync", {"rooms": {room_id: 0}})
            assert (synced["rooms"], synced["left"]) == ([], [room_id])


def _about(user_id: str) -> Callable[[Json], bool]:
    return lambda told: bool(told["user"]["id"] == user_id)
