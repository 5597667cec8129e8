"""Log lines for the journal: on standard output, with the priority that journald reads from ``<N>``."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

#: Libraries that talk of normal things: clients that go away (waitress; we log our own line for each
#: request), defaults taken (qwen_tts).
_QUIET = {"waitress": logging.ERROR, "qwen_tts": logging.WARNING}


class JournalFormatter(logging.Formatter):
    """Prefix every line with ``<priority>``: journald keeps one priority a line, also inside a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        level = max((known for known in _PRIORITY if known <= record.levelno), default=logging.DEBUG)
        prefix = f"<{_PRIORITY[level]}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def configure(level: str) -> None:
    """Send all log records of this process to standard output, as the journal or as a person reads them."""
    handler = logging.StreamHandler(sys.stdout)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(True)
