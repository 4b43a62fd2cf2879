"""Ana's part of a conversation that uses every event there is, with python-socketio.

Juan's part is conversation.mjs, which says how to start both. They find each other, tell each other in the
chat when to go on, and do the same things in turn. The exit code is 0 when every event was sent and received,
else 1, and the missing ones are named. Needs `pip install python-socketio aiohttp`.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import aiohttp
import socketio

ARGUMENTS = dict(enumerate(sys.argv))
URL = ARGUMENTS.get(1, "http://127.0.0.1:8080")
PATIENCE_S = float(ARGUMENTS.get(2, 60))  # how long to wait for any one thing
ME = "ana.example"
PEER = "juan.example"
NAMESPACE = "/chat"

CLIENT_EVENTS = {
    "chat_message",
    "edit_message",
    "delete_message",
    "react_message",
    "read_message",
    "typing",
    "join_room",
    "leave_room",
    "create_room",
    "open_direct",
    "add_member",
    "remove_member",
    "set_role",
    "sync",
    "history",
    "auth_refresh",
}
SERVER_EVENTS = {
    "chat_message",
    "message_edited",
    "message_deleted",
    "message_reaction",
    "message_read",
    "typing_status",
    "user_status",
    "user_updated",
    "room_joined",
    "room_left",
    "room_updated",
    "member_joined",
    "member_left",
    "auth_expiring",
    "session_ended",
    "event_failed",
    "server_draining",
}

Json = dict[str, Any]


class HttpApi:
    """Signing in and what else goes by HTTP. `session` is {user, access_token, expires_in, refresh_token}."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self.session: Json = {}

    async def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Json:
        """The answer's body. Raises RuntimeError with the code of the error."""
        bearer = token or self.session.get("access_token")
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        async with self._http.request(method, URL + path, json=body, headers=headers) as response:
            answer: Json = await response.json()
        if not response.ok:
            raise RuntimeError(answer["error"]["code"])
        return answer

    async def sign_in(self) -> None:
        """Register, or log in where an earlier run has registered."""
        credentials = {"username": ME, "password": f"{ME} has a password"}
        try:
            self.session = await self.call("POST", "/api/auth/register", credentials)
        except RuntimeError as error:
            if str(error) != "conflict":
                raise
            self.session = await self.call("POST", "/api/auth/login", credentials)

    async def find_user(self, username: str) -> Json:
        """The user of that name, as soon as there is one."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for user in (await self.call("GET", f"/api/users?query={username}"))["users"]:
                    if user["username"] == username:
                        return dict(user)
                await asyncio.sleep(0.5)

    async def wait_until_offline(self) -> None:
        """Return when others see that we are gone, a few seconds after the last connection."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if (await self.call("GET", "/api/me"))["user"]["status"] == "offline":
                    return
                await asyncio.sleep(0.25)


class Chat:
    """The connection, and what has come over it."""

    def __init__(self, api: HttpApi) -> None:
        self.api = api
        self.sio = socketio.AsyncClient()
        self.sio.on("connect", self._connected, namespace=NAMESPACE)
        self.sio.on("*", self.note, namespace=NAMESPACE)
        self.sent: set[str] = set()
        self.renewed = asyncio.Event()
        self.received: list[tuple[str, Json]] = []
        self.messages: dict[str, Json] = {}  # by id, each with the greatest rev seen
        self.revs: dict[str, int] = {}  # room id -> the last rev seen: what to name in sync
        self._news = asyncio.Condition()

    async def connect(self) -> None:
        """Connect; python-socketio calls the function again for every reconnection: the newest token."""
        await self.sio.connect(
            URL,
            auth=lambda: {"token": self.api.session["access_token"]},
            namespaces=[NAMESPACE],
            wait_timeout=10,
        )

    async def ask(self, event: str, payload: Json) -> Json:
        """Send an event; the data of its answer. Raises RuntimeError."""
        shown = "a token" if event == "auth_refresh" else json.dumps(payload)
        print(f"-> {event} {shown[:150]}")
        self.sent.add(event)
        answer = await self.sio.call(event, payload, namespace=NAMESPACE, timeout=10)
        if not answer["ok"]:
            raise RuntimeError(f"{event}: {answer['error']}")
        data: Json = answer["data"]
        return data

    async def say(self, room_id: str, content: str, **more: str) -> Json:
        """Post a message; a retry with the same client_msg_id would not post twice."""
        payload = {"room_id": room_id, "content": content, "client_msg_id": uuid4().hex, **more}
        message: Json = (await self.ask("chat_message", payload))["message"]
        return message

    async def sync(self, rooms: dict[str, int | None]) -> None:
        """Ask for what is new since these revs, to the end."""
        truncated: dict[str, int | None] = {}
        payload: Json = {"rooms": rooms}
        while True:
            page = await self.ask("sync", payload)
            for each in page["rooms"]:
                for message in each["changes"]:
                    self._keep(message)
                room_id = each["room"]["id"]
                self.revs[room_id] = max(each["rev"], self.revs.get(room_id, 0))
                if each["truncated"]:
                    truncated[room_id] = each["rev"]
            for room_id in page["left"]:
                self.revs.pop(room_id, None)
            if page["next"] is None:
                break
            payload = {"rooms": rooms, "cursor": page["next"]}
        async with self._news:
            self._news.notify_all()
        if truncated:
            await self.sync(truncated)

    async def note(self, event: str, payload: Json) -> None:
        """Take in an event."""
        print(f"<- {event} {json.dumps(payload)[:150]}")
        self.received.append((event, payload))
        if event in ("chat_message", "message_edited", "message_deleted"):
            self._keep(payload["message"])
        elif "rev" in payload:
            self.revs[payload["room_id"]] = max(payload["rev"], self.revs.get(payload["room_id"], 0))
        async with self._news:
            self._news.notify_all()
        if event == "room_joined":
            await self.sync({payload["room_id"]: None})  # what was said before we came
        elif event == "auth_expiring":
            refresh = {"refresh_token": self.api.session["refresh_token"]}
            self.api.session = await self.api.call("POST", "/api/auth/refresh", refresh)
            await self.ask("auth_refresh", {"token": self.api.session["access_token"]})
            self.renewed.set()

    async def heard(self, event: str, matches: Callable[[Json], bool] = lambda _: True) -> Json:
        """The first such event, received already or to come. Raises TimeoutError."""
        print(f"   (waiting for {event})")
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                for name, payload in self.received:
                    if name == event and matches(payload):
                        return payload
                await self._news.wait()

    async def said(self, beginning: str) -> Json:
        """The other one's message that begins so, by event or by sync. Raises TimeoutError."""
        print(f'   (waiting for "{beginning}")')
        async with asyncio.timeout(PATIENCE_S), self._news:
            while True:
                for message in self.messages.values():
                    if message["sender"]["username"] == PEER and message["content"].startswith(beginning):
                        return message
                await self._news.wait()

    def missing(self) -> list[str]:
        """The events that were not seen."""
        received = {event for event, _ in self.received}
        return [
            *(f"-> {event}" for event in sorted(CLIENT_EVENTS - self.sent)),
            *(f"<- {event}" for event in sorted(SERVER_EVENTS - received)),
        ]

    async def _connected(self) -> None:
        await self.sync(dict(self.revs))  # what happened while we were away

    def _keep(self, message: Json) -> None:
        """An event may overtake the answer of a sync: of two states the greater rev holds."""
        if message["rev"] > self.messages.get(message["id"], {"rev": 0})["rev"]:
            self.messages[message["id"]] = message
        self.revs[message["room_id"]] = max(message["rev"], self.revs.get(message["room_id"], 0))


# The conversation: whoever leads begins each step, the other one follows.


async def lead(chat: Chat, direct: str, peer: Json) -> None:
    """Lead, in the direct room, in a group and in a public room."""
    await chat.ask("typing", {"room_id": direct, "is_typing": True})
    question = await chat.say(direct, "Shall we go out for tapas?")
    reply = await chat.said("Gladly!")
    on_reply = {"room_id": direct, "message_id": reply["id"]}
    await chat.ask("read_message", on_reply)
    await chat.ask("react_message", {**on_reply, "reaction_type": "love", "action": "add"})
    edited = {"room_id": direct, "message_id": question["id"], "content": "Shall we go out tonight?"}
    await chat.ask("edit_message", edited)
    slip = await chat.say(direct, "wrong window")
    await chat.ask("delete_message", {"room_id": direct, "message_id": slip["id"]})
    await lead_in_rooms(chat, direct, peer)

    await chat.api.call("PATCH", "/api/me", {"display_name": "Ana García"})  # user_updated
    empty = {"room_id": direct, "content": ""}
    await chat.sio.emit("chat_message", empty, namespace=NAMESPACE)  # without an ack its error is an event
    await chat.heard("event_failed")

    await chat.say(direct, "Take a break.")
    await chat.heard(
        "user_status", lambda told: told["user_id"] == peer["id"] and told["status"] == "offline"
    )
    await chat.say(direct, "You missed this.")
    await chat.said("I did not.")
    await chat.say(direct, "Now you.")


async def lead_in_rooms(chat: Chat, direct: str, peer: Json) -> None:
    """A group that the other one is added to and removed from, and a public room to join."""
    wanted = {"kind": "group", "name": "Tapas", "client_msg_id": uuid4().hex}
    group = (await chat.ask("create_room", wanted))["room"]
    member = {"room_id": group["id"], "user_id": peer["id"]}
    await chat.ask("add_member", member)
    await chat.ask("set_role", {**member, "role": "admin"})
    await chat.say(group["id"], "Which bar?")
    await chat.said("The one in the plaza.")
    await chat.ask("remove_member", member)

    wanted = {"kind": "public", "name": "Plaza", "client_msg_id": uuid4().hex}
    plaza = (await chat.ask("create_room", wanted))["room"]
    await chat.say(plaza["id"], "I have a table.")
    await chat.say(direct, f"Come to {plaza['id']}")
    await chat.heard("member_left", lambda left: left["room_id"] == plaza["id"])


async def follow(chat: Chat, direct: str, peer: Json) -> None:
    """Answer who leads."""
    question = await chat.said("Shall we go out for tapas?")
    await chat.ask("read_message", {"room_id": direct, "message_id": question["id"]})
    await chat.say(direct, "Gladly!", reply_to=question["id"])
    for event in ("typing_status", "message_edited", "message_deleted", "message_reaction"):
        await chat.heard(event)

    group_id = (await chat.said("Which bar?"))["room_id"]  # a room that we were added to
    await chat.say(group_id, "The one in the plaza.")
    await chat.heard("room_left", lambda left: left == {"room_id": group_id, "reason": "removed"})

    plaza = {"room_id": (await chat.said("Come to "))["content"].removeprefix("Come to ")}
    await chat.ask("join_room", plaza)
    earlier = (await chat.ask("history", {**plaza, "limit": 10}))["messages"]
    await chat.say(plaza["room_id"], f'You said "{earlier[0]["content"]}", but I see nobody.')
    await chat.ask("leave_room", plaza)
    await chat.heard("user_updated", lambda told: told["user"]["id"] == peer["id"])

    await chat.said("Take a break.")
    await chat.sio.disconnect()
    await chat.api.wait_until_offline()
    await chat.connect()
    await chat.said("You missed this.")  # by sync, or if it comes later by its event
    await chat.say(direct, "I did not.")
    await chat.said("Now you.")


async def use_a_phone(chat: Chat) -> None:
    """A second device with a login of its own: logging that out ends its connection, and no other."""
    login = await chat.api.call(
        "POST", "/api/auth/login", {"username": ME, "password": f"{ME} has a password"}
    )
    phone = socketio.AsyncClient()
    phone.on("*", chat.note, namespace=NAMESPACE)
    await phone.connect(URL, auth={"token": login["access_token"]}, namespaces=[NAMESPACE], wait_timeout=10)
    await chat.api.call("POST", "/api/auth/logout", {}, token=login["access_token"])
    await chat.heard("session_ended")
    await phone.disconnect()


async def converse(chat: Chat) -> None:
    """Everything in turn."""
    await chat.api.sign_in()
    await chat.connect()
    peer = await chat.api.find_user(PEER)
    direct = (await chat.ask("open_direct", {"user_id": peer["id"]}))["room"]["id"]
    await chat.said("Are you there?")
    await chat.say(direct, "Here I am.")
    await follow(chat, direct, peer)
    await lead(chat, direct, peer)
    await use_a_phone(chat)
    await chat.heard("auth_expiring")
    async with asyncio.timeout(PATIENCE_S):
        await chat.renewed.wait()
    print("Now stop the server: Ctrl-C in its terminal")
    await chat.heard("server_draining")


async def main() -> int:
    """Converse; the exit code."""
    async with aiohttp.ClientSession() as http:
        chat = Chat(HttpApi(http))
        failed = False
        try:
            await converse(chat)
        except (RuntimeError, TimeoutError, socketio.exceptions.SocketIOError) as error:
            print(f"failed: {error!r}")
            failed = True
        await chat.sio.shutdown()
    missing = chat.missing()
    print(f"missing: {', '.join(missing)}" if missing else "every event was sent and received")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
