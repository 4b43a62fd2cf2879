"""One round: all clusters of two nodes, each with its own Redis in fresh processes, under the same load."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from bench.cluster_load import ClusterLoad, Crossings
from bench.process import Server, machine_cpu_s, running
from bench.reconnects import CLIENTS, Returns, run_reconnects
from bench.redis import running_redis
from bench.rounds import make_tokens, no_garbage_collection

BURSTS = (1, 16)
# The clusters take turns of this length, so that what else the machine does hits all of them alike.
_TURN_S = 0.2
_WARM_UP_S = 1.0


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is started: a node's command and environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one cluster needed in one round: CPU a message, and times to the second node."""

    sending_cpu_s: float
    receiving_cpu_s: float
    redis_cpu_s: float
    load_cpu_s: float
    p50_s: float
    p99_s: float

    @property
    def nodes_cpu_s(self) -> float:
        return self.sending_cpu_s + self.receiving_cpu_s


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The figures by burst and cluster, and the share of all processors that other processes had."""

    figures: dict[int, dict[str, Figures]]
    others_share: float


class _Cluster(msgspec.Struct, frozen=True):
    sending: Server
    receiving: Server
    redis: Server

    @property
    def ports(self) -> tuple[int, int]:
        return self.sending.port, self.receiving.port

    def cpu_s(self) -> tuple[float, float, float, float]:
        """Of both nodes, of Redis, and of this process."""
        return self.sending.cpu_s(), self.receiving.cpu_s(), self.redis.cpu_s(), time.process_time()


class _Contender:
    """A cluster and its members."""

    def __init__(self, cluster: _Cluster, tokens: Sequence[str]) -> None:
        self._cluster = cluster
        self._load = ClusterLoad(cluster.ports, tokens)
        self._turns: dict[int, list[Crossings]] = {burst: [] for burst in BURSTS}
        self._cpu_s = {burst: [0.0] * 4 for burst in BURSTS}

    @property
    def cpu_s(self) -> float:
        return sum(map(sum, self._cpu_s.values()))

    def warm_up(self) -> None:
        """Say something, and measure nothing."""
        for burst in BURSTS:
            self._load.say(_WARM_UP_S / len(BURSTS), burst=burst)

    def take_turn(self, burst: int) -> None:
        """Say something, and measure it."""
        before = self._cluster.cpu_s()
        self._turns[burst].append(self._load.say(_TURN_S, burst=burst))
        used = (now - then for now, then in zip(self._cluster.cpu_s(), before, strict=True))
        self._cpu_s[burst] = [all_s + turn_s for all_s, turn_s in zip(self._cpu_s[burst], used, strict=True)]

    def figures(self, burst: int) -> Figures:
        """What was measured."""
        turns = self._turns[burst]
        messages = sum(turn.count for turn in turns)
        delays_s = sorted(delay_s for turn in turns for delay_s in turn.delays_s)
        sending_s, receiving_s, redis_s, load_s = (cpu_s / messages for cpu_s in self._cpu_s[burst])
        return Figures(
            sending_cpu_s=sending_s,
            receiving_cpu_s=receiving_s,
            redis_cpu_s=redis_s,
            load_cpu_s=load_s,
            p50_s=delays_s[len(delays_s) // 2],
            p99_s=delays_s[len(delays_s) * 99 // 100],
        )

    def close(self) -> None:
        """Let the members go."""
        self._load.close()


def run_round(
    starts: Mapping[str, Start], redis: str, secret: str, *, members: int, duration_s: float
) -> Round:
    """Start the clusters, connect, say something for `duration_s` each and burst, stop.

    `redis` is the program. Raises FrameError, LoadError, ServerError, OSError.
    """
    tokens = make_tokens(members, secret)
    with ExitStack() as stack, no_garbage_collection():
        contenders: dict[str, _Contender] = {}
        for name, start in starts.items():
            cluster = stack.enter_context(_running(start, redis))
            contenders[name] = _Contender(cluster, tokens)
            stack.callback(contenders[name].close)
        for contender in contenders.values():
            contender.warm_up()
        began, others_cpu_s = time.perf_counter(), machine_cpu_s()
        for _ in range(max(1, round(duration_s / _TURN_S))):
            for burst in BURSTS:
                for contender in contenders.values():
                    contender.take_turn(burst)
        others_cpu_s = machine_cpu_s() - others_cpu_s
        others_cpu_s -= sum(contender.cpu_s for contender in contenders.values())
        processors_s = (time.perf_counter() - began) * (os.cpu_count() or 1)
        return Round(
            figures={
                burst: {name: contender.figures(burst) for name, contender in contenders.items()}
                for burst in BURSTS
            },
            others_share=max(0.0, others_cpu_s / processors_s),
        )


def run_returns(start: Start, redis: str, secret: str, *, messages: int) -> Returns:
    """Start a cluster, have clients come and go, stop. Raises FrameError, LoadError, ServerError, OSError."""
    environment = {**start.environment, "BENCH_RECOVERY": "1"}
    with _running(Start(command=start.command, environment=environment), redis) as cluster:
        return run_reconnects(cluster.ports, make_tokens(CLIENTS, secret), messages=messages)


@contextmanager
def _running(start: Start, redis: str) -> Iterator[_Cluster]:
    with ExitStack() as stack:
        server = stack.enter_context(running_redis(redis))
        environment = {**start.environment, "BENCH_REDIS": f"redis://127.0.0.1:{server.port}/0"}
        sending, receiving = (stack.enter_context(running(start.command, environment)) for _ in range(2))
        yield _Cluster(sending, receiving, server)
