"""The log: one line an event, ours and the libraries', without secrets, and never an exception."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, NoReturn

import engineio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.settings import LogSettings
from server.telemetry import Repeats, configure, get_logger, new_error_id

LOG = get_logger("server.test")
LIBRARIES = ["aiohttp.access", "engineio", "engineio.server", "socketio", "socketio.server"]
TOKENS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=8).map(
    lambda text: f"Zq{text}qZ"
)
OWN_NAMES = [
    *("event", "level", "logger", "timestamp", "exception", "stack", "stack_info", "self", "message", "name"),
    *("_record", "_name", "_from_structlog", "_logger", "positional_args", "method_name", "args", "extra"),
]
FIELDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Unwritable(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("token=hunter2")

    __str__ = __repr__


class UntraceableError(Exception):
    def __getattribute__(self, name: str) -> object:
        if name == "__cause__":
            raise RuntimeError("token=hunter2")
        return super().__getattribute__(name)


class BrokenError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("token=hunter2")


def fail(error: Exception, cause: Exception | None = None) -> NoReturn:
    raise error from cause


@contextmanager
def written(
    log_format: Literal["auto", "console", "json"] = "json",
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: io.StringIO | None = None,
) -> Iterator[io.StringIO]:
    """What is logged inside, and by our set-up alone; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    libraries = [(logging.getLogger(name), logging.getLogger(name).level) for name in LIBRARIES]
    text = stream or io.StringIO()
    root.handlers.clear()
    configure(LogSettings(level=level, format=log_format), stream=text)
    try:
        yield text
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        for logger, before in libraries:
            logger.setLevel(before)
            logger.disabled = False


def events(text: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.getvalue().splitlines()]


def test_an_event_is_one_line_of_json() -> None:
    with written() as text:
        LOG.info("server.started", port=8080, url="http://127.0.0.1", parts=["a", None])
    (event,) = events(text)
    assert list(event)[:4] == ["timestamp", "level", "event", "logger"]
    at = datetime.fromisoformat(str(event.pop("timestamp")))
    assert at.tzinfo == UTC
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert event == {
        "level": "info",
        "event": "server.started",
        "logger": "server.test",
        "port": 8080,
        "url": "http://127.0.0.1",
        "parts": ["a", None],
    }


def test_bound_fields_are_in_each_event() -> None:
    with written() as text:
        bound = LOG.bind(conn="c1").bind(user="u1")
        bound.info("conn.accepted")
        bound.error("conn.failed", user="u2")
        LOG.info("conn.closed")
    assert [(event.get("conn"), event.get("user")) for event in events(text)] == [
        ("c1", "u1"),
        ("c1", "u2"),
        (None, None),
    ]


def test_the_level_is_the_least_that_is_written() -> None:
    levels: dict[Literal["debug", "info", "warning", "error"], int]
    levels = {"debug": 4, "info": 3, "warning": 2, "error": 1}
    for level, expected in levels.items():
        with written(level=level) as text:
            for write in (LOG.debug, LOG.info, LOG.warning, LOG.error):
                write("some.event")
            logging.getLogger("aiohttp.server").debug("below it too, unless it is debug")
        names = [event["level"] for event in events(text) if event["event"] == "some.event"]
        assert names == ["debug", "info", "warning", "error"][-expected:]
        assert len(events(text)) == expected + (level == "debug")


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    with written("auto") as text:
        LOG.info("server.started")
    assert events(text)
    with written("auto", stream=Terminal()) as text:
        LOG.info("server.started", port=1)
    assert "\x1b[" in text.getvalue()
    assert "server.started" in text.getvalue()
    with written("json", stream=Terminal()) as text:
        LOG.info("server.started")
    assert events(text)
    with written("console") as text:
        LOG.info("server.started", port=1)
    assert re.search(r"Z \[info *\] server\.started +\[server\.test\] port=1\n$", text.getvalue())


def test_configuring_again_replaces_the_output() -> None:
    with written() as first, written() as second:
        LOG.info("server.started")
    assert first.getvalue() == ""
    assert len(events(second)) == 1


def test_stderr_is_the_output_unless_another_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with written():
        configure(LogSettings(format="json"))
        LOG.info("server.started")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "server.started"


def test_libraries_write_through_the_same_set_up() -> None:
    with written() as text:
        logging.getLogger("asyncio").warning("%s took %d s", "Task", 3, extra={"token": "hunter2"})
    (event,) = events(text)
    assert (event["event"], event["message"], event["level"]) == ("asyncio", "Task took 3 s", "warning")
    assert "hunter2" not in text.getvalue()


def test_the_access_log_is_off_and_socket_libraries_write_warnings_alone() -> None:
    with written(level="debug") as text:
        logging.getLogger("aiohttp.access").error("GET /?token=hunter2")
        for name in ("engineio.server", "socketio.server", "socketio", "engineio"):
            logging.getLogger(name).info("received packet")
            logging.getLogger(name).warning("Slow")
    assert [event["message"] for event in events(text)] == ["Slow"] * 4


def test_engineio_adds_no_output_of_its_own() -> None:
    """It does so to a logger that has no level yet."""
    with written() as text:
        engineio.AsyncServer(async_mode="aiohttp")
        assert logging.getLogger("engineio.server").handlers == []
        logging.getLogger("engineio.server").error("once")
    assert [event["message"] for event in events(text)] == ["once"]


def test_a_failure_is_logged_with_its_stack_trace_on_one_line() -> None:
    error_id = new_error_id()
    with written() as text:
        try:
            fail(ValueError("wrong"))
        except ValueError:
            LOG.exception("event.failed", error_id=error_id)
        LOG.warning("bus.deaf", exc_info=KeyError("room"))
        LOG.error("bus.gone")
    failed, deaf, gone = events(text)
    assert failed["error_id"] == error_id
    assert str(failed["exception"]).startswith("Traceback (most recent call last)")
    assert str(failed["exception"]).endswith("ValueError: wrong")
    assert deaf["exception"] == "KeyError: 'room'"
    assert "exception" not in gone


def test_error_ids_are_short_and_never_the_same() -> None:
    ids = [new_error_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(re.fullmatch("[0-9a-f]{12}", error_id) for error_id in ids)


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(token=TOKENS)
def test_no_token_ever_appears(log_format: Literal["json", "console"], token: str) -> None:
    """In a field, an event, a text, an exception and its cause, and what a library writes."""
    jwt = f"eyJ{token}.{token}.{token}"
    event = f"event.{jwt}"
    with written(log_format) as text:
        LOG.info(event, token=token, auth={"token": token}, path=f"/?token={token}&x=1", jwt=[jwt])
        LOG.bind(password=token, headers={"Authorization": f"Bearer {token}"}).warning("conn.refused")
        try:
            try:
                fail(ValueError(f"redis://user:{token}@host refused"))
            except ValueError as error:
                fail(KeyError({"refresh_token": token}), error)
        except KeyError as error:
            LOG.exception("event.failed", error=error)
            logging.getLogger("aiohttp.server").exception("Error handling request /?token=%s", token)
    assert text.getvalue().count("\n") >= 4
    assert token not in text.getvalue()
    assert "log.failed" not in text.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(value=st.text(), name=FIELDS)
def test_no_value_can_forge_a_line(log_format: Literal["json", "console"], value: str, name: str) -> None:
    """Each line is an event or an indented line of a stack trace, and no terminal gets an escape sequence."""
    forged = f"{value}\n2026-01-01T00:00:00Z [info] forged\r\x1b[2K\u2028forged\x85forged"
    with written(log_format) as text:
        LOG.info(forged, **{name: forged, "list": [forged], "dict": {forged: forged}, "one": "\x1b[2K\u2028"})
        LOG.warning("event.failed", exc_info=ValueError(forged))
        logging.getLogger("asyncio").error(forged)
        logging.getLogger(f"lib.{len(value)}").error("x")
    lines = [line for line in text.getvalue().splitlines() if not line.startswith("  | ")]
    assert len(lines) == 4
    assert not any(line.startswith(("forged", "2026-01-01")) for line in lines)
    assert (
        re.search(r"[^\n -~]", re.sub(r"[^\W_]", "", text.getvalue())) is None
        or text.getvalue().replace("\n", "").isprintable()
    )


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(fields=st.dictionaries(FIELDS | st.sampled_from(OWN_NAMES), st.integers()))
@example(fields=dict.fromkeys(OWN_NAMES, 5))
def test_a_field_of_any_name_stands_beside_what_the_log_adds(
    log_format: Literal["json", "console"], fields: dict[str, int]
) -> None:
    with written(log_format) as text:
        LOG.info("some.event", **fields)
        LOG.bind(**fields).info("some.event")
    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.search(r"Z.*info.*some\.event.*server\.test", line)
        assert all(
            re.search(rf"\b{name}_?\b", line) for name in fields.keys() - {"_record", "_from_structlog"}
        )


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(value=st.recursive(st.text() | st.floats() | st.builds(Broken) | st.binary(), st.lists))
def test_no_value_makes_a_log_call_fail(log_format: Literal["json", "console"], value: object) -> None:
    with written(log_format) as text:
        LOG.info("some.event", value=value, number=10**5_000)
    assert "some.event" in text.getvalue()
    assert "hunter2" not in text.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_broken_exception_is_logged(log_format: Literal["json", "console"]) -> None:
    with written(log_format) as text:
        try:
            fail(BrokenError())
        except BrokenError:
            LOG.exception("event.failed", error=BrokenError(), value=Broken())
            logging.getLogger("asyncio").exception("Task failed")
    assert text.getvalue().count("BrokenError") >= 2
    assert "hunter2" not in text.getvalue()


def test_an_event_that_cannot_be_logged_is_named() -> None:
    with written() as text:
        LOG.warning("event.failed", exc_info=UntraceableError())
    (event,) = events(text)
    assert (event["level"], event["message"]) == ("warning", "RuntimeError while logging 'event.failed'")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_line_that_cannot_be_formatted_is_named_but_not_shown(
    log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    with written(log_format) as text:
        logging.getLogger("asyncio").error("%d", "hunter2")
        logging.getLogger("asyncio").error("%s", Broken())
        LOG.info("still.there")
    assert text.getvalue().count('"log.failed", "logger": "asyncio"') == 2
    assert "still.there" in text.getvalue()
    assert "hunter2" not in text.getvalue() + capsys.readouterr().err


def test_a_stream_that_is_gone_is_nobodys_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with written(stream=Unwritable()):
        LOG.info("some.event", value="hunter2")
        logging.getLogger("asyncio").error("hunter2")
    with written() as text:
        text.close()
        LOG.info("some.event", value="hunter2")
    assert capsys.readouterr().err == ""


def test_what_an_encoding_lacks_is_escaped() -> None:
    output = io.BytesIO()
    with written():
        stream = io.TextIOWrapper(output, encoding="ascii", write_through=True)
        configure(LogSettings(format="console"), stream=stream)
        LOG.info("some.event", name="Juan Pérez 🎉 \ud800")
        configure(LogSettings(format="json"), stream=stream)
        LOG.info("some.event", name="Juan Pérez 🎉 \ud800")
    lines = output.getvalue().decode("ascii").splitlines()
    assert "Juan P\\xe9rez \\U0001f389 \\ud800" in lines[0]
    assert json.loads(lines[1])["name"] == "Juan Pérez 🎉 \ud800"


def test_before_the_set_up_secrets_are_redacted_too(caplog: pytest.LogCaptureFixture) -> None:
    LOG.warning("some.event", password="hunter2", jwt="eyJa.b.c", exc_info=ValueError("token=hunter2"))
    assert "some.event" in caplog.text
    assert "hunter2" not in caplog.text
    assert "eyJ" not in caplog.text


def test_of_what_repeats_the_first_is_logged_and_the_next_one_says_how_many_were_not() -> None:
    now = [100.0]
    repeats = Repeats(window_s=10, clock=lambda: now[0])
    assert [repeats.admit("a") for _ in range(5)] == [0, None, None, None, None]
    assert repeats.admit("b") == 0
    now[0] = 109.9
    assert repeats.admit("a") is None
    now[0] = 110.0
    assert [repeats.admit("a"), repeats.admit("a"), repeats.admit("b")] == [5, None, 0]


def test_what_repeats_is_remembered_for_so_many_kinds() -> None:
    repeats = Repeats(window_s=10, most_kinds=2, clock=lambda: 0.0)
    assert [repeats.admit(kind) for kind in "abbcbca"] == [0, 0, None, 0, None, None, 0]
    assert len(repeats) == 2


def test_a_log_call_too_deep_in_the_stack_does_not_fail() -> None:
    """What runs out of stack inside the log has run out of it anyway, and is told so where it is."""

    def deeper(left: int) -> None:
        LOG.info("some.event", value={"a": [1]})
        if left:
            deeper(left - 1)

    with written() as text:
        try:
            deeper(sys.getrecursionlimit())
        except RecursionError:
            LOG.info("after.it")
    assert "after.it" in text.getvalue()
