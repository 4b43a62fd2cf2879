"""What a store sends to its server, and a use of everything that it does."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from pymongo import monitoring

from server.domain.models import Login
from server.storage.base import UsernameTakenError
from server.storage.mongo.store import MongoStorage
from tests.builders import CREATED_AT, delete_change, member, message_change, react_change, room, user


class Wire(monitoring.CommandListener):
    """Keeps the commands that are sent."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def use(storage: MongoStorage) -> None:
    """Do all that it can do, with more than one thing at a time where it can."""
    await storage.create_user(user("juan"), "hash")
    with suppress(UsernameTakenError):
        await storage.create_user(replace(user("other"), username="juan"), "hash")
    await storage.create_room(room("room"), [member("room", "juan", role="owner")])
    await storage.create_room(room("plaza", kind="public"), [member("plaza", "juan", role="owner")])
    await storage.create_room(room("late", key="key-room"), [member("late", "juan")])
    change = message_change("room", 1)
    like = react_change(change.message, 2, by="juan")
    await storage.append([change, like, delete_change(like.message, 3), message_change("plaza", 1)])
    await storage.advance_cursors([("room", "juan", 1), ("plaza", "juan", 1)])
    busy = [message_change("busy", rev, seq=rev) for rev in range(1, 4)]
    likes = [
        react_change(each.message, 4 + 30 * (each.rev - 1) + n, by=f"user-{n}", last_seq=3)
        for each in busy
        for n in range(30)
    ]
    await storage.append([*busy, *likes])
    await read(storage, (change.key, like.key))
    await come_and_go(storage)
    await storage.update_user("juan", display_name="Juan")
    await storage.set_last_seen([("juan", CREATED_AT)])
    await storage.update_room("plaza", deleted_at=CREATED_AT)
    login = Login(id="login", user_id="juan", n=0, rotated_at=CREATED_AT, expires_at=2 * CREATED_AT)
    await storage.create_login(login)
    await storage.rotate_login("login", 0, CREATED_AT, 2 * CREATED_AT)
    await storage._database.insert("rotations", {"_id": "login:2"})  # one that does not decode
    await storage.rotate_login("login", 1, CREATED_AT, 2 * CREATED_AT)
    await storage.revoke_logins("juan")
    await storage.revoke_login(login)  # it is revoked already
    await storage.report("node", at=CREATED_AT, is_heard=True)
    await storage.written_by("node", CREATED_AT)
    await storage.forget_node("node")


async def come_and_go(storage: MongoStorage) -> None:
    """Join, stay although somebody was removing them, rise, leave, come back, and leave the room empty."""
    for _ in range(2):
        await storage.add_member(member("room", "ana"))
    await storage._database.update("members", {"_id": "room:ana"}, {"$set": {"leaving": "before"}})
    await storage.keep_member("room", "ana")
    await storage.set_role("room", "ana", "admin")
    for each in ("ana", "juan"):
        await storage.remove_member("room", each)
    await storage.add_member(member("room", "ana"))


async def read(storage: MongoStorage, keys: Sequence[str]) -> None:
    """Every read, of two rooms where it may be of several."""
    rooms = ("room", "plaza")
    for _ in range(2):  # the second time the heads are known
        await storage.heads(rooms)
    refs = [(room_id, key) for room_id in rooms for key in keys]
    await storage.find_by_keys(refs)
    await storage.find_messages(refs)
    for each in ("room", "busy"):
        await storage.messages_between(each, 1, 5)
        await storage.messages_at([(each, seq) for seq in (1, 2, 3)])
    await storage.messages_at([(room_id, seq) for room_id in rooms for seq in (1, 2)])
    await storage.changes_after("room", 0, 10)
    await storage.own_reactions([(room_id, "juan", 1) for room_id in rooms])
    await storage.find_rooms(rooms)
    await storage.find_member("room", "juan")
    await storage.members_among("room", ["juan"])
    await storage.member_counts(rooms)
    await storage.members("room", (0, ""), 10)
    await storage.memberships("juan")
    await storage.public_rooms("a", "", 10)
    await storage.find_users(["juan"])
    await storage.find_credentials("juan")
    await storage.search_users("ju", "", 10)
