"""What Ana's client asks for when it comes back."""

from collections.abc import Mapping

from server.events import MOST_ANSWER_BYTES, Sync
from server.services.views import size_bytes
from server.views import SyncData
from tests.services import Site

LONG = "😀" * 4_000  # 16 KB


async def first_page(site: Site, rooms: Mapping[str, int | None] | None = None) -> SyncData:
    return await site.sync.sync("ana", Sync(rooms=dict(rooms or {})))


async def pages(site: Site, rooms: Mapping[str, int | None] | None = None, most: int = 100) -> list[SyncData]:
    """All pages of a sync of Ana's, each within the limit."""
    found: list[SyncData] = []
    cursor: str | None = None
    while not found or cursor is not None:
        page = await site.sync.sync("ana", Sync(rooms=dict(rooms or {}), cursor=cursor))
        assert size_bytes(page) <= MOST_ANSWER_BYTES
        found.append(page)
        assert len(found) <= most, "the pages do not end"
        cursor = page.next
    return found


def ids(*found: SyncData) -> list[str]:
    return [each.room.id for page in found for each in page.rooms]
