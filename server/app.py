"""The server as a whole: the only module that names the store, the bus and what is served over them."""

import asyncio
import logging
import time
from pathlib import Path

from aiohttp import web

from namespaces.base import NamespaceRules
from namespaces.chat import ChatNamespace
from namespaces.fanout import Fanout, Retelling
from namespaces.sessions import SessionRules, Sessions
from server import events
from server.backends import make_backends
from server.composition import UseCases, make_rates, now_ms
from server.domain.errors import ChatError
from server.domain.ratelimit import RateLimiter
from server.realtime.server import Options, RecoveryOptions, Server
from server.routes.api import Api, ApiRules
from server.routes.edge import SOCKETIO_PATH, Edge, EdgeRules, is_own_fault
from server.routes.system import System
from server.services.nodes import Nodes
from server.services.views import iso
from server.settings import Settings
from server.telemetry import Repeats, get_logger, new_error_id

STATIC = Path(__file__).resolve().parent.parent / "static"
_TICK_S = 0.5
_LONGEST_SPREAD_S = 10.0
_SPREAD_PER_SOCKET_S = 0.02
_STOP_TIMEOUT_S = 5.0
# Proxies and balancers use a connection again after up to 60 s: then it must not be closing.
_IDLE_TIMEOUT_S = 75.0
_LONGEST_HEADER_BYTES = 32 * 1024
_log = get_logger(__name__)


class Tertulia:
    """One server. `start` opens the store and then the port; `drain` and `close` end it, in this order."""

    def __init__(self, settings: Settings, secret: str, *, idle_timeout_s: float = _IDLE_TIMEOUT_S) -> None:
        self._settings = settings
        self._engine = Server(_engine_options(settings))
        retelling = Retelling()
        self._backends = make_backends(settings, self._engine, retelling)
        self.storage, self._bus = self._backends.storage, self._backends.bus
        fanout = Fanout(self._bus)
        self._nodes = self._make_nodes(fanout)
        self._use_cases = UseCases(settings, secret, self._backends, fanout, self._nodes)
        self._sessions = Sessions(
            self._use_cases.rooms,
            _session_rules(settings),
            forget_away=self._forget_away,
            listen_to=fanout.listen_to,
            connections_in=lambda channel: self._engine.connections_in(events.NAMESPACE, channel),
            has_ended=self._use_cases.accounts.has_ended,
        )
        retelling.teller, retelling.directory = self._use_cases.teller, self._use_cases.directory
        retelling.sessions, retelling.learn = self._sessions, self._use_cases.committer.learn
        retelling.said = self._use_cases.presence.passed
        fanout.follow(self._use_cases.directory.forget)
        fanout.follow(self._sessions.handle)
        limiter = RateLimiter()
        self._serve_sockets(limiter)
        logging.getLogger("aiohttp.server").addFilter(is_own_fault)
        self._runner = web.AppRunner(
            self._make_web(limiter),
            access_log=None,
            shutdown_timeout=_STOP_TIMEOUT_S,
            # Also for a connection that has sent nothing yet, or a part of a head.
            keepalive_timeout=idle_timeout_s,
            max_field_size=_LONGEST_HEADER_BYTES,
        )
        self._ticking: asyncio.Task[None] | None = None
        self._failed_ticks = Repeats()

    def _make_nodes(self, fanout: Fanout) -> Nodes | None:
        if self._backends.nodes is None:
            return None
        return Nodes(
            self._backends.nodes,
            fanout,
            node=self._backends.node,
            is_heard=self._bus.is_heard,
            clock=now_ms,
            monotonic=time.monotonic,
        )

    def _serve_sockets(self, limiter: RateLimiter) -> None:
        settings, cases = self._settings, self._use_cases
        rules = NamespaceRules(
            rates=make_rates(settings.limits),
            deadline_s=settings.realtime.event_deadline_s,
            may_query_token=settings.auth.allow_query_token,
        )
        chat = ChatNamespace(
            cases.accounts,
            cases.rooms,
            cases.messages,
            cases.sync,
            cases.presence,
            self._sessions,
            cases.health,
            limiter,
            rules,
        )
        self._engine.register(
            events.NAMESPACE,
            chat,
            unknown_namespace_message=f"connect to {events.NAMESPACE}",
            recovery=self._backends.recovery,
        )

    def _forget_away(self, user_id: str) -> None:
        self._engine.forget_away(events.NAMESPACE, user_id)

    def _make_web(self, limiter: RateLimiter) -> web.Application:
        settings, cases = self._settings, self._use_cases
        edge = Edge(_edge_rules(settings), cases.health, limiter)
        logins = settings.limits.logins_per_min if settings.limits.enabled else None
        rules = ApiRules(rates=make_rates(settings.limits), logins_per_min=logins)
        api = Api(cases.accounts, cases.rooms, cases.messages, cases.presence, edge, limiter, rules)
        system = System(
            cases.health,
            STATIC,
            started_at=iso(now_ms()),
            features=_features(settings),
            has_test_page=settings.server.development,
        )
        application = web.Application(
            middlewares=[edge.middleware], client_max_size=settings.realtime.max_packet_bytes
        )
        application.add_routes([*api.routes(), *system.routes()])
        application.router.add_route("*", SOCKETIO_PATH, self._engine.handle)
        return application

    async def start(self) -> int:
        """Open the store, then the port; the port that was opened.

        Raises StoreRefusedError, BusRefusedError, UnavailableError, OSError (the port).
        """
        await self.storage.open()
        await self._bus.start()
        await self._backends.ephemeral.start()
        self._use_cases.start()
        self._ticking = asyncio.create_task(self._tick(), name="app.tick")
        await self._runner.setup()
        server = self._settings.server
        await web.TCPSite(self._runner, server.host, server.port).start()
        self._use_cases.health.is_started = True
        port = int(self._runner.addresses[0][1])
        _log.info(
            "server.started",
            url=server.url(port),
            version=events.VERSION,
            namespaces=[events.NAMESPACE],
            events=sorted(events.CLIENT_EVENTS),
            store=self._settings.database.url.partition(":")[0],
            bus=self._settings.cluster.url.partition(":")[0],
        )
        return port

    async def drain(self) -> None:
        """Go unready, go on for `drain_delay_s`, then let nobody in and send everybody away by and by."""
        server = self._settings.server
        self._use_cases.health.is_leaving = True
        _log.info("server.draining", connections=self._engine.connection_count)
        await asyncio.sleep(0 if server.development else server.drain_delay_s)
        self._use_cases.health.is_draining = True
        await self._sessions.drain(
            min(_LONGEST_SPREAD_S, _SPREAD_PER_SOCKET_S * self._engine.connection_count)
        )

    async def close(self) -> None:
        """Close what is open; what was accepted is stored and told first."""
        await self._engine.close()
        await self._runner.cleanup()
        await self._use_cases.close(_STOP_TIMEOUT_S)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        await self._backends.ephemeral.close()
        await self._bus.close()
        if self._nodes is not None:
            await self._nodes.leave()
        await self.storage.close()
        if self._use_cases.health.is_started:
            _log.info("server.stopped")

    async def _tick(self) -> None:
        cases = self._use_cases
        while True:
            ticks = [cases.health.tick, cases.presence.tick, cases.teller.tick]
            for tick in [*ticks, self._nodes.tick] if self._nodes is not None else ticks:
                try:
                    await tick()
                except ChatError as error:
                    left_out = self._failed_ticks.admit((tick, error.code))
                    if left_out is not None:
                        _log.warning("tick.failed", code=error.code, left_out=left_out)
                except Exception:  # noqa: BLE001 - logged; the next tick must come
                    _log.exception("tick.failed", error_id=new_error_id())
            await asyncio.sleep(_TICK_S)


def _engine_options(settings: Settings) -> Options:
    realtime = settings.realtime
    return Options(
        ping_interval_s=realtime.ping_interval_s,
        ping_timeout_s=realtime.ping_timeout_s,
        connect_timeout_s=realtime.connect_timeout_s,
        max_packet_bytes=realtime.max_packet_bytes,
        max_queued_events=realtime.max_queued_events,
        max_queued_bytes=realtime.max_queued_bytes,
        max_buffer_bytes=realtime.max_buffer_bytes,
        transports=realtime.transports,
        recovery=RecoveryOptions(max_away_s=realtime.recovery_s, max_log_bytes=realtime.recovery_log_bytes),
    )


def _session_rules(settings: Settings) -> SessionRules:
    return SessionRules(
        leeway_s=settings.auth.leeway_s,
        expiring_notice_s=settings.auth.expiring_notice_s,
    )


def _edge_rules(settings: Settings) -> EdgeRules:
    server, limits = settings.server, settings.limits
    return EdgeRules(
        allowed_origins=server.allowed_origins,
        trusted_proxies=server.trusted_proxies,
        connections_per_min=limits.connections_per_min if limits.enabled else None,
        allows_localhost=server.development,
    )


def _features(settings: Settings) -> list[str]:
    accounts = ["accounts"] if settings.auth.accounts_enabled else []
    return sorted([*accounts, *settings.realtime.transports])
