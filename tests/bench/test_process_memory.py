"""The memory of a process that has started others."""

from __future__ import annotations

import subprocess
import sys

from qwen3_tts_service.bench.process_memory import resident_of_family


def test_what_a_child_and_its_child_hold_counts() -> None:
    before = resident_of_family()
    hold = "kept = b'x' * (64 << 20); print('holds', flush=True); input()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdin
        assert child.stdout.readline() == "holds\n"
        assert resident_of_family() - before > 64 << 20
        assert resident_of_family(child.pid) > 64 << 20
        child.stdin.write("\n")
    assert resident_of_family(child.pid) == 0
