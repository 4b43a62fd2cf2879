"""The `/chat` namespace: one method for each event that clients send."""

from server import events
from server.domain.errors import ForbiddenError
from server.domain.ratelimit import RateLimiter
from server.services.accounts import AccountService
from server.services.health import Health
from server.services.messages import MessageService
from server.services.presence import PresenceService
from server.services.rooms import RoomService
from server.services.sync import SyncService
from server.views import (
    ExpiresData,
    HistoryData,
    MessageData,
    Nothing,
    ReadData,
    RoomData,
    SentData,
    SyncData,
)

from .base import Namespace, NamespaceRules
from .sessions import Session, Sessions


class ChatNamespace(Namespace):
    """Takes each event to its use case."""

    def __init__(
        self,
        accounts: AccountService,
        rooms: RoomService,
        messages: MessageService,
        sync: SyncService,
        presence: PresenceService,
        sessions: Sessions,
        health: Health,
        limiter: RateLimiter,
        rules: NamespaceRules,
    ) -> None:
        super().__init__(accounts, presence, sessions, health, limiter, rules)
        self._rooms = rooms
        self._messages = messages
        self._sync = sync

    async def chat_message(self, session: Session, payload: events.ChatMessage) -> SentData:
        sent = await self._messages.send(session.user_id, payload)
        await self._presence.said(sent.message.room_id, session.user_id)
        return sent

    async def edit_message(self, session: Session, payload: events.EditMessage) -> MessageData:
        return await self._messages.edit(session.user_id, payload)

    async def delete_message(self, session: Session, payload: events.DeleteMessage) -> MessageData:
        return await self._messages.delete(session.user_id, payload)

    async def react_message(self, session: Session, payload: events.ReactMessage) -> MessageData:
        return await self._messages.react(session.user_id, payload)

    async def read_message(self, session: Session, payload: events.ReadMessage) -> ReadData:
        return await self._messages.read(session.user_id, payload)

    async def typing(self, session: Session, payload: events.TypingPayload) -> Nothing:
        await self._presence.typing(session.user_id, payload, session.connection.sid)
        return Nothing()

    async def join_room(self, session: Session, payload: events.RoomPayload) -> RoomData:
        return RoomData(room=await self._rooms.join(session.user_id, payload.room_id))

    async def leave_room(self, session: Session, payload: events.RoomPayload) -> Nothing:
        await self._rooms.leave(session.user_id, payload.room_id)
        return Nothing()

    async def create_room(self, session: Session, payload: events.CreateRoom) -> RoomData:
        return RoomData(room=await self._rooms.create(session.user_id, payload))

    async def open_direct(self, session: Session, payload: events.OpenDirect) -> RoomData:
        return RoomData(room=await self._rooms.open_direct(session.user_id, payload.user_id))

    async def add_member(self, session: Session, payload: events.RoomUser) -> RoomData:
        room = await self._rooms.add_member(session.user_id, payload.room_id, payload.user_id)
        return RoomData(room=room)

    async def remove_member(self, session: Session, payload: events.RoomUser) -> RoomData | Nothing:
        room = await self._rooms.remove_member(session.user_id, payload.room_id, payload.user_id)
        return RoomData(room=room) if room is not None else Nothing()

    async def set_role(self, session: Session, payload: events.SetRole) -> RoomData:
        room = await self._rooms.set_role(session.user_id, payload.room_id, payload.user_id, payload.role)
        return RoomData(room=room)

    async def sync(self, session: Session, payload: events.Sync) -> SyncData:
        return await self._sync.sync(session.user_id, payload, only_room_id=session.room_id)

    async def history(self, session: Session, payload: events.History) -> HistoryData:
        return await self._messages.history(session.user_id, payload)

    async def auth_refresh(self, session: Session, payload: events.AuthRefresh) -> ExpiresData:
        identity = await self.identify(payload.token)
        if identity.user.id != session.user_id:
            raise ForbiddenError("the token is another user's", field="token")
        return ExpiresData(expires_in=self._sessions.renew(session, identity))
