"""The header ``X-Timeout``: how long a client wants to wait for all of its answer."""

from __future__ import annotations

import math

from flask import request

from ..errors import InvalidValue, shown

_NAME = "X-Timeout"


def seconds(longest_s: float) -> float:
    """The time that the request being handled may take, at most ``longest_s``, which is also what none means.

    Raises InvalidValue for a header that is no positive number.
    """
    given = request.headers.get(_NAME)
    if given is None:
        return longest_s
    try:
        wanted = float(given)
    except ValueError:
        wanted = math.nan
    if not 0 < wanted < math.inf:
        raise InvalidValue(
            f"`{_NAME}` is {shown(given)}: it must be a number of seconds above 0 (more than {longest_s:g} counts as "
            "that)",
            param=_NAME,
        )
    return min(wanted, longest_s)
