"""How the process runs: its event loop, and its garbage collection."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

_new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    import uvloop
except ImportError:  # there is none for Windows
    _new_event_loop = asyncio.new_event_loop
else:
    _new_event_loop = uvloop.new_event_loop

# A message leaves dozens of objects behind, hardly ever in cycles: by the default every tenth message or so
# would begin to look for these.
_GC_THRESHOLDS = 10_000, 20, 50


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run the process's only coroutine; what it returns."""
    calm_garbage_collection()
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(main)


def calm_garbage_collection() -> None:
    """Have it look for cycles seldom, and not among the modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
