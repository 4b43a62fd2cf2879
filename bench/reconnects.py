"""Clients that lose their connections and come back to the other node, and what they miss or get twice."""

import itertools
import select
import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec

from bench import frames
from bench.member import LoadError, Member

CLIENTS = 20
# Every so often something is said, and a client dropped, which stays away for some time.
_SAY_EVERY_S = 0.008
_DROP_EVERY_S = 0.05
_AWAY_S = (0.05, 0.25)
# How long what is missing yet is waited for.
_PATIENCE_S = 5.0
_CONNECT_PATIENCE_S = 20.0
_LATE_S = 0.5
_LOOK_EVERY_S = 0.002
# Behind the beginning of an event and `{"n":"`.
_NUMBER = slice(len(frames.EVENT_BEGIN) + 6, len(frames.EVENT_BEGIN) + 12)


class Returns(msgspec.Struct, frozen=True, kw_only=True):
    """Over all clients: events, and how often a client came back, and as the one that it was."""

    expected: int
    received: int
    distinct: int
    returns: int
    recovered: int

    @property
    def lost(self) -> int:
        return self.expected - self.distinct

    @property
    def doubled(self) -> int:
        return self.received - self.distinct


def run_reconnects(ports: tuple[int, int], tokens: Sequence[str], *, messages: int) -> Returns:
    """Say so many messages to a client for each token, most of which come and go.

    Raises FrameError, LoadError, OSError.
    """
    run = _Run(ports, tokens)
    try:
        return run.run(messages)
    finally:
        run.close()


class _Client:
    """Connects to one node after the other, and says what it had as the official clients do."""

    def __init__(self, ports: Sequence[int], token: str) -> None:
        self._ports = itertools.cycle(ports)
        self._token = token
        self._pid = self._offset = ""
        self.member: Member | None = None
        self.is_connected = False
        self.due_at_s = 0.0
        self.numbers: list[int] = []
        self.returns = self.recovered = 0

    def come(self) -> Member:
        """Begin to connect to the next node."""
        auth = {"token": self._token, "recovery": True}
        if self._pid:
            auth["pid"] = self._pid
        if self._offset:
            auth["offset"] = self._offset
        self.member = Member(next(self._ports), auth)
        return self.member

    def drop(self) -> None:
        """Lose the connection."""
        if self.member is not None:
            self.member.socket.close()
        self.member, self.is_connected = None, False

    def say(self, number: int) -> None:
        """Say something to all, itself too."""
        if self.member is not None:
            self.member.socket.send(frames.client_frame(frames.make_event(number)))

    def read(self) -> None:
        """Take what has come. Raises FrameError, LoadError, OSError."""
        if self.member is None:
            return
        data = self.member.read()
        if self.is_connected:
            texts = self.member.texts(data)
        elif (rest := self.member.shake_hands(data)) is not None:
            texts = rest
            self._connected(self.member.answer)
        else:
            return
        for text in texts:
            self._received(text)

    def _connected(self, answer: bytes) -> None:
        pid = msgspec.json.decode(answer, type=dict[str, str]).get("pid", "")
        self.returns += bool(self.numbers)
        self.recovered += bool(self.numbers) and bool(pid) and pid == self._pid
        self._pid, self.is_connected = pid, True

    def _received(self, text: bytes) -> None:
        if not text.startswith(frames.EVENT_BEGIN):
            raise LoadError(f"not an event: {text!r:.300}")
        self.numbers.append(int(text[_NUMBER]))
        last = msgspec.json.decode(text[text.index(b"[") :], type=list[object])[-1]
        if isinstance(last, str):
            self._offset = last


class _Run:
    """One run. Who says everything stays at the first node, and is counted as well."""

    def __init__(self, ports: tuple[int, int], tokens: Sequence[str]) -> None:
        self._writer = _Client(ports[:1], tokens[0])
        orders = itertools.cycle((ports, ports[::-1]))
        self._others = [_Client(order, token) for token, order in zip(tokens[1:], orders, strict=False)]
        self._clients = [self._writer, *self._others]
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Client] = {}
        # The same in every run; nothing is kept secret with it.
        self._random = Random(1)

    def run(self, messages: int) -> Returns:
        for client in self._clients:
            self._come(client)
        self._wait(lambda: all(client.is_connected for client in self._clients), _CONNECT_PATIENCE_S)
        self._say(messages)
        self._wait(lambda: all(len(set(each.numbers)) == messages for each in self._clients), _PATIENCE_S)
        # What comes twice may come late.
        self._wait(lambda: False, _LATE_S)
        return Returns(
            expected=messages * len(self._clients),
            received=sum(len(client.numbers) for client in self._clients),
            distinct=sum(len(set(client.numbers)) for client in self._clients),
            returns=sum(client.returns for client in self._clients),
            recovered=sum(client.recovered for client in self._clients),
        )

    def close(self) -> None:
        for client in self._clients:
            client.drop()
        self._epoll.close()

    def _say(self, messages: int) -> None:
        began_s, drops, victims = time.monotonic(), 0, itertools.cycle(self._others)
        for number in range(messages):
            self._writer.say(number)
            while drops * _DROP_EVERY_S < number * _SAY_EVERY_S:
                self._drop(next(victims))
                drops += 1
            self._serve_until(began_s + (number + 1) * _SAY_EVERY_S)

    def _drop(self, client: _Client) -> None:
        if client.is_connected and client.member is not None:
            del self._by_fd[client.member.fd]
            client.drop()
            client.due_at_s = time.monotonic() + self._random.uniform(*_AWAY_S)

    def _wait(self, is_done: Callable[[], bool], patience_s: float) -> None:
        until_s = time.monotonic() + patience_s
        while not is_done() and time.monotonic() < until_s:
            self._serve_until(time.monotonic() + _LOOK_EVERY_S)

    def _serve_until(self, until_s: float) -> None:
        while True:
            for client in self._clients:
                if client.member is None and client.due_at_s <= time.monotonic():
                    self._come(client)
            for fd, _ in self._epoll.poll(max(0.0, min(_LOOK_EVERY_S, until_s - time.monotonic()))):
                self._by_fd[fd].read()
            if time.monotonic() >= until_s:
                return

    def _come(self, client: _Client) -> None:
        member = client.come()
        self._by_fd[member.fd] = client
        # Closed is unregistered.
        self._epoll.register(member.fd, select.EPOLLIN)
