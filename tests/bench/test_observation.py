"""What is put into a server that is measured, and the kernel's log beside it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from qwen3_tts_service.bench import observation
from qwen3_tts_service.bench.kernel_log import KernelLog
from qwen3_tts_service.bench.requests import spoken_by
from qwen3_tts_service.bench.upstream import speak
from qwen3_tts_service.checkpoints.load import load
from qwen3_tts_service.engine.frame import FrameModel
from qwen3_tts_service.engine.reference import ReferenceEngine


def test_only_frames_of_an_unbroken_run_have_a_gap(tmp_path: Path) -> None:
    file = tmp_path / "times"
    record = struct.Struct("<ddi")
    frames = [
        (0.0, 1.0, 4),
        (0.5, 1.2, 4),
        (1.1, 1.5, 2),
        # Launched after the frame before was read: there was a pause.
        (8.0, 8.1, 1),
        (8.05, 8.3, 1),
    ]
    file.write_bytes(b"".join(record.pack(*frame) for frame in frames) + b"half a record")
    found = observation.gaps(file, since=0.0, until=10.0)
    assert found
    assert found.by_rows == {
        rows: pytest.approx(seconds) for rows, seconds in ((4, [0.2]), (2, [0.3]), (1, [0.2]))
    }
    assert sorted(found.seconds) == pytest.approx([0.2, 0.2, 0.3])
    assert found.rows == pytest.approx(7 / 3)
    later = observation.gaps(file, since=2.0, until=10.0)
    assert later
    assert len(later.seconds) == 1
    assert observation.gaps(file, since=20.0, until=30.0) is None


def test_engines_speak_on_inside_the_block_and_are_themselves_behind_it(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint, device="cpu", cpu_threads=1)
    eos = model.checkpoint.config["talker_config"]["codec_eos_token_id"]
    with observation.endless():
        endless = FrameModel(model, slots=1, positions=64)
        ReferenceEngine(model)
    usual = FrameModel(model, slots=1, positions=64)
    assert bool(endless.suppressed[eos])
    assert not bool(usual.suppressed[eos])
    assert usual.eos == eos != endless.eos
    request = spoken_by(model.checkpoint, "Hello.", max_frames=40)
    # Upstream's generate of the same model keeps the hook: forty frames are more than it would speak.
    assert len(speak(model, request, batch=2, frames=40).codes[1]) == 40


def test_trouble_is_read_from_the_kernels_log_and_the_rest_is_not(tmp_path: Path) -> None:
    file = tmp_path / "kmsg"
    file.write_text("6,1,1,-;amdgpu: GPU reset begin!\n")
    log = KernelLog(file)
    with file.open("a") as kernel:
        kernel.write("6,2,2,-;usb 1-1: new device\n")
        kernel.write("3,3,3,-;amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE\n")
        kernel.write("3,4,4,-;NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n")
    assert [line.split(",")[0:2] for line in log.trouble()] == [["3", "3"], ["3", "4"]]
    assert log.trouble() == []
    assert not log.unreadable
    log.close()
    assert "run as root" in KernelLog(tmp_path / "absent").unreadable
