"""How far each server has come here, so that nothing is dealt with twice when Redis was another one."""

from collections import OrderedDict

from server.realtime.redis_streams.entries import AgainEntry, Entry

_MOST_SERVERS = 10_000
_MOST_EPOCHS = 4


class Origins:
    """The last number that came of each server, now and at the end of the epochs before."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()
        self._ended: OrderedDict[str, dict[str, int]] = OrderedDict()

    def is_new(self, entry: Entry) -> bool:
        """Note that the stream has brought it. Whether it is the first time."""
        if not entry.number:
            return True
        last = self._last.get(entry.node, 0)
        self._last[entry.node] = max(last, entry.number)
        self._last.move_to_end(entry.node)
        if len(self._last) > _MOST_SERVERS:
            self._last.popitem(last=False)
        if isinstance(entry, AgainEntry):
            # Its first number says nothing of what came since: what overtook it has a later one.
            return entry.first > self._ended.get(entry.epoch, {}).get(entry.node, 0)
        return entry.number > last

    def end_epoch(self, epoch: str) -> None:
        """Keep how far all had come in the epoch that ended."""
        self._ended[epoch] = dict(self._last)
        if len(self._ended) > _MOST_EPOCHS:
            self._ended.popitem(last=False)
