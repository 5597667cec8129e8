"""The rig's one error: a sentence that says what is wrong and what to do."""

from __future__ import annotations


class RigError(Exception):
    """The rig cannot go on; the message is for the person who started it."""
