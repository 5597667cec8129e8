"""What counts as a lost device, and the record of such losses across restarts."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from unittest import mock

import pytest

from qwen3_tts_service.engine.device_faults import recent_faults, record_fault
from qwen3_tts_service.errors import DeviceFault, is_device_lost


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("HIP error: unspecified launch failure\nCompile with ..."), True),
        (DeviceFault("the device computes noise"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("shape '[3]' is invalid for input of size 4"), False),
    ],
)
def test_which_errors_lose_the_device(error: Exception, lost: bool) -> None:
    assert is_device_lost(error) is lost


def test_faults_are_remembered_in_order(tmp_path: Path) -> None:
    record = tmp_path / "device-faults.json"
    assert recent_faults(record) == []
    record_fault(record, "no frame\nwithin 10 s")
    kept = record_fault(record, "HIP error: reset")
    assert [fault.cause for fault in kept] == ["no frame within 10 s", "HIP error: reset"]
    assert recent_faults(record) == kept
    assert time.time() - 60 < kept[0].at <= kept[1].at <= time.time()
    assert [file.name for file in tmp_path.iterdir()] == ["device-faults.json"]


def test_old_faults_are_forgotten(tmp_path: Path) -> None:
    record = tmp_path / "device-faults.json"
    with mock.patch("time.time", return_value=time.time() - 601):
        record_fault(record, "yesterday's")
    assert recent_faults(record) == []
    assert [fault.cause for fault in recent_faults(record, within_s=700)] == ["yesterday's"]
    assert [fault.cause for fault in record_fault(record, "today's")] == ["today's"]
    assert "yesterday" not in record.read_text()


@pytest.mark.parametrize("content", ["", "{", '{"at": 1}', '[{"at": "x"}]', "[1]", "[{}]", "[[]]"])
def test_a_damaged_record_is_said_and_counts_as_none(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "device-faults.json"
    record.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert recent_faults(record) == []
    assert str(record) in caplog.text
    assert [fault.cause for fault in record_fault(record, "new")] == ["new"]


def test_a_record_that_cannot_be_written_keeps_nobody_from_leaving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = record_fault(tmp_path / "missing" / "device-faults.json", "HIP error: reset")
    assert [fault.cause for fault in faults] == ["HIP error: reset"]
    assert "could not be recorded" in caplog.text
