"""The rules of chat that need no state: what a text, a name or an id may be, and who may do what."""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Mapping

from server.domain.errors import ForbiddenError, InvalidError
from server.domain.models import Member, Role, Room

_SUBJECT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_USERNAME = re.compile(r"[a-z0-9_.-]{3,32}")
_NOT_USERNAME = re.compile(r"[^a-z0-9_.-]+")
_MOST_USERNAME_CHARS = 32
_LEAST_USERNAME_CHARS = 3
_MOST_DISPLAY_CHARS = 64
_MOST_ROOM_NAME_CHARS = 100
_RANK: Mapping[Role, int] = {"member": 0, "admin": 1, "owner": 2}

BUILT_IN_USER_PREFIX = "~u"
SHORT_QUOTE_CHARS = 140
LAST_MESSAGE_CHARS = 200


def find_bad_text(value: object, path: str = "") -> str | None:
    """The path of the first string, at any depth, with a NUL or a lone surrogate; None if all are good."""
    if isinstance(value, str):
        return path if _is_bad(value) else None
    if isinstance(value, dict):
        for key, each in value.items():
            inner = f"{path}.{key}" if path else str(key)
            bad = (path or "payload") if find_bad_text(key) is not None else find_bad_text(each, inner)
            if bad is not None:
                return bad
    if isinstance(value, list):
        for each in value:
            bad = find_bad_text(each, path)
            if bad is not None:
                return bad
    return None


def _is_bad(text: str) -> bool:
    try:
        return b"\x00" in text.encode()
    except UnicodeEncodeError:
        return True


def user_id_of_subject(subject: str) -> str:
    """The user id of a subject from outside; no two subjects share one, and none is a built-in account's."""
    if _SUBJECT.fullmatch(subject):
        return subject
    digest = hashlib.sha256(subject.encode("utf-8", "surrogatepass")).digest()
    return "~s" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def checked_username(username: str) -> str:
    """The username in lower case. Raises InvalidError."""
    lowered = username.lower()
    if not _USERNAME.fullmatch(lowered):
        raise InvalidError("a username is 3 to 32 of a-z 0-9 _ . -", field="username")
    return lowered


def username_from(*names: str | None) -> str:
    """A usable username made from the first name that yields one."""
    for name in names:
        ascii_name = unicodedata.normalize("NFKD", name or "").encode("ascii", "ignore").decode().lower()
        cleaned = _NOT_USERNAME.sub("-", ascii_name).strip("-.")[:_MOST_USERNAME_CHARS]
        if len(cleaned) >= _LEAST_USERNAME_CHARS:
            return cleaned
    return "user"


def with_suffix(username: str, suffix: str) -> str:
    """`username-suffix`, cut to fit."""
    return f"{username[: _MOST_USERNAME_CHARS - len(suffix) - 1]}-{suffix}"


def checked_display_name(name: str) -> str:
    """The name without surrounding space. Raises InvalidError."""
    stripped = name.strip()
    if not 1 <= len(stripped) <= _MOST_DISPLAY_CHARS:
        raise InvalidError("a display name has 1 to 64 characters", field="display_name")
    return stripped


def checked_room_name(name: str) -> str:
    """The name without surrounding space. Raises InvalidError."""
    stripped = name.strip()
    if not 1 <= len(stripped) <= _MOST_ROOM_NAME_CHARS:
        raise InvalidError("a room name has 1 to 100 characters", field="name")
    return stripped


def checked_content(content: str, most_chars: int) -> str:
    """The content as it came. Raises InvalidError."""
    if not 1 <= len(content) <= most_chars:
        raise InvalidError(f"content has 1 to {most_chars} characters", field="content")
    return content


def require_admin(member: Member) -> None:
    """Raises ForbiddenError unless the member is an admin or an owner."""
    if not is_admin(member):
        raise ForbiddenError("only the admins of this room may do this")


def is_admin(member: Member) -> bool:
    """Whether the member is an admin or an owner."""
    return _RANK[member.role] >= _RANK["admin"]


def require_not_direct(room: Room) -> None:
    """Raises ForbiddenError for a direct room: it has its two people and no other state."""
    if room.kind == "direct":
        raise ForbiddenError("a direct room has neither other members nor roles nor a name")


def require_may_remove(actor: Member, target: Member) -> None:
    """Raises ForbiddenError unless the actor is an admin of at least the target's rank."""
    require_admin(actor)
    if _RANK[target.role] > _RANK[actor.role]:
        raise ForbiddenError("only an owner may remove an owner")


def require_may_set_role(actor: Member, target: Member, role: Role) -> None:
    """Raises ForbiddenError unless an admin changes members and admins, or an owner anyone."""
    require_admin(actor)
    if actor.role != "owner" and ("owner" in (role, target.role)):
        raise ForbiddenError("only an owner may make or unmake an owner")


def direct_key(one: str, other: str) -> str:
    """The key of the one direct room of two people."""
    return "direct:" + ":".join(sorted((one, other)))


def digest_of(*parts: str) -> str:
    """128 bits of SHA-256 over the parts, as hex; parts cannot run into one another."""
    joined = b"".join(b"%d:%s" % (len(raw), raw) for raw in (part.encode() for part in parts))
    return hashlib.sha256(joined).hexdigest()[:32]
