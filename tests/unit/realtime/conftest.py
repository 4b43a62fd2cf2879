import pytest

from server.realtime.recovery import Recovery
from tests.unit.realtime.trails import OPTIONS, PING_S, Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("server.realtime.recovery._now_s", lambda: clock.now_s)
    return clock


@pytest.fixture
def recovery(clock: Clock) -> Recovery:
    assert clock.now_s
    return Recovery(OPTIONS, ping_s=PING_S)
