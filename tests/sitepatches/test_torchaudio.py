"""The torchaudio patch on the package index's builds, which do not fit a CPU torch."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3_tts_service.sitepatches import patcher as in_process
from qwen3_tts_service.sitepatches.patchset import load_patch_set

from .environments import Environment, patcher


def install_torchaudio(environment: Environment, wheel: Path) -> None:
    """Unpack a wheel over what is there."""
    for entry in environment.packages.glob("torchaudio*"):
        shutil.rmtree(entry)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(environment.packages)


def test_import_qwen_tts_fails_before_and_works_after(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = tuple(patch for patch in load_patch_set() if patch.name == "transformers-vision")
    with monkeypatch.context() as only_vision:
        only_vision.setattr(in_process, "load_patch_set", lambda: vision)
        in_process.apply(environment.python)
    before = environment.run("import qwen_tts")
    assert before.returncode == 1
    assert "OSError: Could not load this library" in before.stderr

    assert patcher("apply", "--python", str(environment.python))[0] == 0
    after = environment.run("import qwen_tts")
    assert after.returncode == 0, after.stderr


LIBRARY = """
import io, logging, sys, warnings
warnings.simplefilter("ignore")
records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger().addHandler(handler)
import torch, torchaudio
import torchaudio.compliance.kaldi, torchaudio.functional, torchaudio.transforms
[record] = [record for record in records if record.name.startswith("torchaudio")]
assert record.levelname == "WARNING" and "does not fit torch" in record.getMessage(), record

def fails(call):
    try:
        call()
    except (RuntimeError, OSError) as error:
        assert "does not fit torch" in str(error), error
    else:
        raise AssertionError(call)

F = torchaudio.functional
fails(lambda: F.forced_align(torch.zeros(1, 4, 3), torch.ones(1, 2, dtype=torch.int32)))
length = torch.ones(1, dtype=torch.int32)
logits, targets = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, dtype=torch.int32)
fails(lambda: F.rnnt_loss(logits, targets, length, length))
fails(lambda: torchaudio.transforms.RNNTLoss()(logits, targets, length, length))
fails(lambda: getattr(__import__("torchaudio.models.decoder").models.decoder, "cuda_ctc_decoder"))
if torchaudio.__version__.startswith("2.8"):
    from torchaudio.prototype.functional import ray_tracing, simulate_rir_ism
    points = torch.ones(3)
    fails(lambda: simulate_rir_ism(torch.full((3,), 9.0), points, points[None], 2, 0.1))
    fails(lambda: ray_tracing(torch.full((3,), 9.0), points, points[None], 10))

# What needs no library computes.
wave = torch.sin(torch.arange(4800.0) * 0.1)[None]
assert F.resample(wave, 24000, 16000).shape == (1, 3200)
assert F.lfilter(wave, torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.0])).isfinite().all()
assert torchaudio.compliance.kaldi.fbank(wave, sample_frequency=24000.0).ndim == 2

for save in (torchaudio.save, torchaudio.save_with_torchcodec):
    for load in (torchaudio.load, torchaudio.load_with_torchcodec):
        file = io.BytesIO()
        save(file, wave, 24000, format="wav", encoding="PCM_S", bits_per_sample=24)
        file.seek(0)
        back, rate = load(file, frame_offset=800)
        assert rate == 24000 and (back - wave[:, 800:]).abs().max() < 1e-6
from torchaudio._torchcodec import load_with_torchcodec
assert load_with_torchcodec is torchaudio.load_with_torchcodec
assert "torchcodec" not in sys.modules
print("version", torchaudio.__version__)
"""


@pytest.mark.parametrize("version", ["2.8.0", "2.9.0", "2.9.1", "2.11.0"])
def test_library_that_does_not_fit(
    environment: Environment, torchaudio_wheel: Callable[[str], Path], version: str
) -> None:
    install_torchaudio(environment, torchaudio_wheel(version))
    before = environment.run("import torchaudio")
    assert before.returncode == 1
    assert "OSError" in before.stderr

    pristine = environment.files()
    status, _, message = patcher("apply", "--python", str(environment.python))
    assert status == 0, message
    after = environment.run(LIBRARY)
    assert after.returncode == 0, after.stderr
    assert after.stdout.startswith(f"version {version}")

    assert patcher("status", "--python", str(environment.python))[0] == 0
    assert patcher("revert", "--python", str(environment.python))[0] == 0
    assert environment.files() == pristine
