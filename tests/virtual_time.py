"""An event loop whose clock goes straight to the next timer: no test waits, and each run is the same."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Selector(selectors.SelectSelector):
    """Lets the time pass instead of waiting for a file."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for another one")
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers alone drive it: threads and sockets would be waited for in vain."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """As asyncio.run, in virtual time. Raises RuntimeError when all tasks wait for ever."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Make a coroutine function a test that takes no time."""

    @wraps(test)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapper


async def settle() -> None:
    """Return when every task has gone as far as it can without time passing."""
    await asyncio.sleep(1e-6)
