"""Entries of a server "me" for tests of what becomes of them."""

from server.realtime.redis_streams import entries
from server.realtime.redis_streams.door import GAPLESS, NUMBERED, Passage
from server.realtime.redis_streams.entries import EmitEntry
from server.realtime.redis_streams.outbox import Out, Outbox


def passage(
    number: int, key: str = "me", kind: str = NUMBERED, data: bytes = b"", tried_in: str = ""
) -> Passage:
    return Passage(kind=kind, key=key, number=number, data=data, tried_in=tried_in)


def change(number: int, key: str = "r", data: bytes = b"") -> Passage:
    return passage(number, key, GAPLESS, data)


def emit_entry(number: int, *, key: str = "", rev: int = 0, node: str = "me") -> EmitEntry:
    return EmitEntry(node, number, ("r",), (), False, key, rev, "", b'42/chat,["e"', [])  # noqa: FBT003 - as it is encoded


def out(number: int, *, key: str = "", rev: int = 0) -> Out:
    entry = emit_entry(number, key=key, rev=rev)
    data = entries.encode(entry)
    return Out(entry, change(rev, key, data) if key else passage(number, data=data))


def outbox(most_entries: int = 100, most_bytes: int = 100_000) -> Outbox:
    return Outbox(most_entries=most_entries, most_bytes=most_bytes)


def filled(count: int, made: Outbox | None = None) -> tuple[Outbox, list[Out]]:
    """An outbox with so many entries."""
    made = made or outbox()
    outs = [out(made.next_number()) for _ in range(count)]
    for each in outs:
        made.add(each)
    return made, outs
