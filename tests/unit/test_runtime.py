import gc
from collections.abc import Iterator

import pytest

from server import runtime


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class _Ring:
    """One that only a look for cycles frees."""

    def __init__(self, freed: list[bool]) -> None:
        self._freed = freed
        self._itself = self

    def __del__(self) -> None:
        self._freed.append(True)


def test_what_runs_leaves_behind_is_found_though_seldom_looked_for() -> None:
    freed: list[bool] = []

    async def leave_behind() -> int:
        kept = []
        for _ in range(1_000):
            _Ring(freed)
        seldom = not freed
        while not freed:
            kept.append(list[object]())
        return 7 if seldom else 0

    assert runtime.run(leave_behind()) == 7


def test_modules_are_not_looked_at() -> None:
    runtime.calm_garbage_collection()

    assert gc.get_freeze_count() > len(gc.get_objects())
