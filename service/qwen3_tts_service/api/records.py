"""How requests for speech went: told for some minutes after, because an answer that is streamed cannot end with it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: How long a request is remembered after its beginning at most (seconds), and how many are.
KEPT_S = 900.0
MOST = 4096


@dataclass
class Record:
    """One request: whose it is, and what is known of it."""

    request_id: str
    key_name: str
    #: Made anew for whoever asks, while the request is under way.
    facts: Callable[[], dict[str, Any]]
    begun: float = field(default_factory=time.monotonic)


class Records:
    """The newest requests. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: OrderedDict[str, Record] = OrderedDict()

    def keep(self, record: Record) -> None:
        """Remember it, in place of what is too old, or the oldest where there are too many."""
        with self._lock:
            oldest_kept = time.monotonic() - KEPT_S
            for old in list(
                itertools.takewhile(lambda kept: kept.begun < oldest_kept, self._records.values())
            ):
                del self._records[old.request_id]
            if len(self._records) >= MOST:
                self._records.popitem(last=False)
            self._records[record.request_id] = record

    def find(self, request_id: str, key_name: str) -> Record | None:
        """The request of that id, when ``key_name`` made it."""
        with self._lock:
            record = self._records.get(request_id)
        if record is None or record.key_name != key_name or record.begun < time.monotonic() - KEPT_S:
            return None
        return record
