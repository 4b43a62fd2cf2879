"""Logging: one set-up for our own events and for those of the libraries, with every secret taken out.

Nobody else imports structlog. Event names are stable and dotted (`server.started`); fields hold what varies.
"""

import json
import logging
import math
import secrets
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from server.redaction import redact, redact_text
from server.settings import LogSettings

# A field of one of these names would be taken for what the set-up itself adds.
_OWN_FIELDS = frozenset(
    {
        *("self", "event", "level", "logger", "timestamp", "exception", "exc_info", "stack", "stack_info"),
        *("_record", "_from_structlog"),
    }
)
_FIRST_FIELDS = ("timestamp", "level", "event", "logger")
_TRACE_FIELDS = ("exception", "stack", "stack_info")
_META_FIELDS = ("_record", "_from_structlog")

_MAX_TRACE_CHARS = 32_768

# socketio and engineio add a handler of their own to a logger of theirs that has no level.
_SOCKET_LOGGERS = (
    "engineio",
    "engineio.server",
    "engineio.client",
    "socketio",
    "socketio.server",
    "socketio.client",
)


class Logger:
    """Writes events under one name. A call never raises; fields that hold secrets are redacted."""

    __slots__ = ("_inner",)

    def __init__(self, inner: structlog.stdlib.BoundLogger) -> None:
        self._inner = inner

    def bind(self, /, **fields: object) -> "Logger":
        """A logger that adds these fields to each event."""
        return Logger(self._inner.bind(**_free_names(fields)))

    def debug(self, event: str, /, **fields: object) -> None:
        """For following one connection step by step."""
        self._write(logging.DEBUG, event, fields, None)

    def info(self, event: str, /, **fields: object) -> None:
        """For what happens in ordinary operation."""
        self._write(logging.INFO, event, fields, None)

    def warning(self, event: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """For what an operator should look at some time; `exc_info` adds its stack trace."""
        self._write(logging.WARNING, event, fields, exc_info)

    def error(self, event: str, /, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """For what an operator should look at now; `exc_info` adds its stack trace."""
        self._write(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the stack trace of the exception being handled."""
        self._write(logging.ERROR, event, fields, sys.exception())

    def _write(
        self, level: int, event: str, fields: Mapping[str, object], exc_info: BaseException | None
    ) -> None:
        try:
            if self._inner.isEnabledFor(level):
                self._inner.bind(**_free_names(fields)).log(level, event, exc_info=exc_info)
        except Exception as failure:  # noqa: BLE001 - what is logged must not fail because of the log
            with suppress(Exception):
                logging.getLogger(__name__).warning("%s while logging %r", type(failure).__name__, event)


class Repeats:
    """For lines that clients can cause at will: one a kind and window is written, and says how many were not.

    Remembers at most `most_kinds`; the one written longest ago is forgotten first.
    """

    def __init__(
        self,
        *,
        window_s: float = 10.0,
        most_kinds: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s = window_s
        self._most_kinds = most_kinds
        self._clock = clock
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def admit(self, kind: Hashable) -> int | None:
        """How many of this kind were left out since the last that was written; None: leave this one out."""
        now = self._clock()
        written_at, left_out = self._kinds.get(kind, (-math.inf, 0))
        if now - written_at < self._window_s:
            self._kinds[kind] = (written_at, left_out + 1)
            return None
        self._kinds.pop(kind, None)
        self._kinds[kind] = (now, 0)
        if len(self._kinds) > self._most_kinds:
            del self._kinds[next(iter(self._kinds))]
        return left_out


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to a stream; a line that cannot be written or formatted is named, never shown."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        line = {"level": "error", "event": "log.failed", "logger": record.name}
        with suppress(Exception):
            self.stream.write(json.dumps(line) + "\n")


def configure(log: LogSettings, *, stream: TextIO | None = None) -> None:
    """Send our events and those of the libraries to a stream (stderr), one line each. May be called again."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[log.level.upper()]
    is_terminal = stream.isatty()
    console = log.format == "console" or (log.format == "auto" and is_terminal)
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_console(stream, colors=is_terminal) if console else [structlog.processors.JSONRenderer()]),
            ],
            foreign_pre_chain=[_foreign_event, *_COMMON],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # The access log shows URLs; the libraries log every packet.
    logging.getLogger("aiohttp.access").disabled = True
    for name in _SOCKET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def get_logger(name: str) -> Logger:
    """The logger of a module (`__name__`)."""
    chain = [*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    bound = structlog.wrap_logger(
        logging.getLogger(name), processors=chain, wrapper_class=structlog.stdlib.BoundLogger
    ).bind()
    return Logger(cast("structlog.stdlib.BoundLogger", bound))


def new_error_id() -> str:
    """12 hexadecimal digits that stand in an answer and beside the stack trace."""
    return secrets.token_hex(6)


def _free_names(fields: Mapping[str, object]) -> dict[str, object]:
    return {f"{name}_" if name in _OWN_FIELDS else name: value for name, value in fields.items()}


def _foreign_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # The text of a library is no stable name: its logger's name is.
    event["message"] = event["event"]
    event["event"] = event["_record"].name
    return event


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    kept = {name: event.pop(name) for name in _META_FIELDS if name in event}
    traces = {name: event.pop(name) for name in _TRACE_FIELDS if name in event}
    try:
        clean = cast("dict[str, object]", redact(event))
        clean |= {name: redact_text(str(text), max_chars=_MAX_TRACE_CHARS) for name, text in traces.items()}
    except Exception as failure:  # noqa: BLE001 - a line that cannot be cleaned is named, never shown
        clean = {"event": "log.failed", "reason": type(failure).__name__}
    first = {name: clean[name] for name in _FIRST_FIELDS if name in clean}
    return {**first, **clean, **kept}


_COMMON: tuple[Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _redact_event,
)


def _console(stream: TextIO, *, colors: bool) -> list[Processor]:
    encoding = stream.encoding or "utf-8"

    def encodable(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
        return str(line).encode(encoding, "backslashreplace").decode(encoding)

    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        repr_native_str=True,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_on_one_line, renderer, encodable]


def _on_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what could forge a line; the renderer does so itself for values, with `repr`."""
    shown: EventDict = {}
    for name, value in event.items():
        if name in _TRACE_FIELDS:
            shown[name] = "\n".join(f"  | {_printable(line)}" for line in str(value).splitlines())
        else:
            shown[_printable(name)] = _printable(str(value)) if name in _FIRST_FIELDS else value
    return shown


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
