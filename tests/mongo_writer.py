"""A process that writes to a room of a MongoDB store as a server does: `URL NAME MESSAGES TIMEOUT_S`.

Several people send at once, each one message after the other, edit some, react to some, and repeat what was
answered `unavailable` with the same key, as clients do. What was acknowledged is printed as JSON lines
`[key, rev]`.
"""

import asyncio
import json
import sys

from server.domain.changes import Draft
from server.domain.errors import UnavailableError
from server.domain.models import Message
from server.storage.commit import Committer
from server.storage.mongo.store import MongoStorage
from tests.drafts import Told, edit, post, react

SENDERS = 25
ROOM = "room"


async def carry_out(storage: MongoStorage, committer: Committer, draft: Draft) -> Message:
    key = (draft.room_id, draft.key)
    while True:
        try:
            outcome = await committer.append(draft)
            # Where an earlier try was stored after its deadline nothing is left to change.
            change = outcome.change or (await storage.find_by_keys([key]))[key]
        except UnavailableError:
            await asyncio.sleep(0.2)
        else:
            sys.stdout.write(json.dumps([draft.key, change.rev]) + "\n")
            sys.stdout.flush()
            return outcome.message


async def send(storage: MongoStorage, committer: Committer, name: str, messages: int) -> None:
    for number in range(messages):
        text = f"{number:04d}"
        message = await carry_out(storage, committer, post(text, by=name, unique=text))
        if number % 10 == 0:
            await carry_out(
                storage, committer, _own(edit(message, text + " edited"), f"{name}-edit-{number}")
            )
        if number % 10 == 3:
            await carry_out(
                storage, committer, _own(react(message, name, action="add"), f"{name}-react-{number}")
            )


def _own(draft: Draft, key: str) -> Draft:
    """With a key that no other process makes."""
    return type(draft)(**{name: getattr(draft, name) for name in draft.__struct_fields__} | {"key": key})


async def main(url: str, name: str, messages: int, timeout_s: float) -> None:
    storage = MongoStorage(url, is_alone=False, timeout_s=timeout_s)
    while True:
        try:
            await storage.open()
        except UnavailableError:
            await asyncio.sleep(0.2)
        else:
            break
    committer = Committer(storage, Told(), node=name, is_alone=False)
    committer.start()
    each = messages // SENDERS
    await asyncio.gather(*(send(storage, committer, f"{name}-{sender}", each) for sender in range(SENDERS)))
    await committer.close()
    await storage.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
