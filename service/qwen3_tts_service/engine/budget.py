"""How many frames a text may become before it is cut off.

Now and then the talker never ends (0.3 to 0.5 % of requests with the published weights, and an in-context clone
with a wrong transcript): the budget makes that cost seconds, not the whole cap.
"""

from __future__ import annotations

from ..speech.request import FRAMES_A_SECOND

#: Seconds that any text may take: a pause before and after, and one drawn-out word.
_ALWAYS_S = 5.0
#: Seconds for each token of text. Speech takes about 0.3 s for a token of English and 0.5 s for a digit, which
#: is a token of its own; instructions such as "very slowly" double that.
_TOKEN_S = 1.0


def frame_budget(text_tokens: int, *, cap: int) -> int:
    """Frames of 80 ms that a text of ``text_tokens`` tokens may become: at least 1, at most ``cap``."""
    return max(1, min(cap, round((_ALWAYS_S + _TOKEN_S * text_tokens) * FRAMES_A_SECOND)))
