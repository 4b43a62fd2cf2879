"""One round: all servers, each in a fresh process, under the same load in turns."""

import gc
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import jwt
import msgspec

from bench.load import Deliveries, Load
from bench.process import Server, machine_cpu_s, running

# The servers take turns of this length, so that what else the machine does hits all of them alike.
_TURN_S = 0.2
_WARM_UP_S = 1.0
# One member of so many connects unmeasured: a server's first connections make it import, compile and grow.
_UNCOUNTED = 5
_SETTLE_S = 0.5
_TOKEN_TTL_S = 3600


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one server needed in one round."""

    delivery_cpu_s: float
    deliveries_per_s: float
    p50_s: float
    p99_s: float
    connection_cpu_s: float
    connections_per_s: float
    connection_bytes: float
    # The load generator's own.
    load_delivery_cpu_s: float
    load_connection_cpu_s: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The servers' figures, and the share of all processors that other processes had meanwhile."""

    figures: dict[str, Figures]
    others_share: float


class _Connecting(msgspec.Struct, frozen=True, kw_only=True):
    cpu_s: float
    per_s: float
    memory_bytes: float
    load_cpu_s: float


class _Contender:
    """A server and its members."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._load = Load(server.port)
        self._connecting: _Connecting
        self._turns: list[Deliveries] = []
        self.cpu_s = self._load_cpu_s = 0.0

    def connect(self, tokens: Sequence[str]) -> None:
        """Connect a member for each token, and measure most of it."""
        server, uncounted = self.server, len(tokens) // _UNCOUNTED
        self._load.connect(tokens[:uncounted])
        time.sleep(_SETTLE_S)
        count = len(tokens) - uncounted
        memory_bytes, cpu_s, load_cpu_s = server.rss_bytes(), server.cpu_s(), time.process_time()
        began = time.perf_counter()
        self._load.connect(tokens[uncounted:])
        took_s, load_took_s = time.perf_counter() - began, time.process_time() - load_cpu_s
        time.sleep(_SETTLE_S)
        self._connecting = _Connecting(
            cpu_s=(server.cpu_s() - cpu_s) / count,
            per_s=count / took_s,
            memory_bytes=(server.rss_bytes() - memory_bytes) / count,
            load_cpu_s=load_took_s / count,
        )

    def warm_up(self) -> None:
        """Broadcast, and measure nothing."""
        self._load.broadcast(_WARM_UP_S)

    def take_turn(self) -> None:
        """Broadcast, and measure it."""
        cpu_s, load_cpu_s = self.server.cpu_s(), time.process_time()
        self._turns.append(self._load.broadcast(_TURN_S))
        self._load_cpu_s += time.process_time() - load_cpu_s
        self.cpu_s += self.server.cpu_s() - cpu_s

    def figures(self) -> Figures:
        """What was measured."""
        deliveries = sum(turn.count for turn in self._turns)
        delays_s = sorted(delay_s for turn in self._turns for delay_s in turn.delays_s)
        return Figures(
            delivery_cpu_s=self.cpu_s / deliveries,
            deliveries_per_s=deliveries / sum(turn.duration_s for turn in self._turns),
            p50_s=delays_s[len(delays_s) // 2],
            p99_s=delays_s[len(delays_s) * 99 // 100],
            connection_cpu_s=self._connecting.cpu_s,
            connections_per_s=self._connecting.per_s,
            connection_bytes=self._connecting.memory_bytes,
            load_delivery_cpu_s=self._load_cpu_s / deliveries,
            load_connection_cpu_s=self._connecting.load_cpu_s,
        )

    def close(self) -> None:
        """Let the members go."""
        self._load.close()


def run_round(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], *, members: int, duration_s: float
) -> Round:
    """Start the servers, connect, broadcast for `duration_s` each, stop.

    Raises FrameError, LoadError, ServerError, OSError.
    """
    tokens = make_tokens(members, environment["BENCH_SECRET"])
    with ExitStack() as stack, no_garbage_collection():
        contenders: dict[str, _Contender] = {}
        for name, command in commands.items():
            server = stack.enter_context(running(command, environment))
            contenders[name] = _Contender(server)
            stack.callback(contenders[name].close)
            contenders[name].connect(tokens)
        for contender in contenders.values():
            contender.warm_up()
        began, others_cpu_s = time.perf_counter(), machine_cpu_s() - time.process_time()
        for _ in range(max(1, round(duration_s / _TURN_S))):
            for contender in contenders.values():
                contender.take_turn()
        others_cpu_s = machine_cpu_s() - time.process_time() - others_cpu_s
        others_cpu_s -= sum(contender.cpu_s for contender in contenders.values())
        processors_s = (time.perf_counter() - began) * (os.cpu_count() or 1)
        return Round(
            figures={name: contender.figures() for name, contender in contenders.items()},
            others_share=max(0.0, others_cpu_s / processors_s),
        )


_Start = TypeVar("_Start")


def rotated(starts: Mapping[str, _Start], number: int) -> dict[str, _Start]:
    """The servers in another order for each round."""
    names = list(starts)
    first = number % len(names)
    return {name: starts[name] for name in [*names[first:], *names[:first]]}


def make_tokens(count: int, secret: str) -> list[str]:
    """So many users' tokens."""
    expires_at = int(time.time()) + _TOKEN_TTL_S
    claims = [{"sub": f"user{number}", "exp": expires_at} for number in range(count)]
    return [jwt.encode(claim, secret, algorithm="HS256") for claim in claims]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The load's own pauses would show in the delays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
