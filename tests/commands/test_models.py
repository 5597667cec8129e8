"""How ``qwen3-tts models pull`` tells how far it is; what it does is tested with the downloads."""

from __future__ import annotations

import pytest

from qwen3_tts_service.commands.models import tellers


@pytest.mark.parametrize(
    ("terminal", "said"),
    [
        (False, "begun\n 10 %\n 20 %\ndone\n"),
        (True, "\r\x1b[Kbegun\n\r\x1b[K 10 %\r\x1b[K 20 %\r\x1b[Kdone\n"),
    ],
)
def test_a_terminal_shows_the_latest_and_a_journal_keeps_all(
    capsys: pytest.CaptureFixture[str], terminal: bool, said: str
) -> None:
    report, progress = tellers(terminal)
    report("begun")
    progress(" 10 %")
    progress(" 20 %")
    report("done")
    assert capsys.readouterr().out == said
