"""What the tests of the use cases, and of what stands on them, share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.services import Site, open_site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """The use cases over a store of the test's own."""
    async with open_site(tmp_path) as opened:
        yield opened
