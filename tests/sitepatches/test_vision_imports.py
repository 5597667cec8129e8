"""The vision patch: a torchvision that kills the process when it is imported is never imported."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from qwen3_tts_service.sitepatches import patcher as in_process
from qwen3_tts_service.sitepatches.patchset import load_patch_set

from .environments import Environment, patcher

SPEAK = """
import sys
import qwen_tts
if len(sys.argv) > 1:
    from qwen3_tts_service.engine.reference import ReferenceEngine
    from qwen3_tts_service.speech.request import SpeechRequest
    engine = ReferenceEngine.load(sys.argv[1], device="cpu")
    request = SpeechRequest(text="One sentence.", voice=engine.speakers[0], seed=1, max_frames=12)
    print("samples", engine.synthesize(request).size)
assert "torchvision" not in sys.modules
"""


def add_distribution(environment: Environment, name: str, version: str, files: dict[str, str]) -> None:
    for path, text in files.items():
        location = environment.packages / path
        location.parent.mkdir(parents=True, exist_ok=True)
        location.write_text(text)
    info = environment.packages / f"{name.lower()}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, f"{info.name}/RECORD"]))


def add_aborting_torchvision(environment: Environment) -> None:
    """What a torchvision built for another GPU does: it takes the process down."""
    add_distribution(
        environment, "torchvision", "0.24.0", {"torchvision/__init__.py": "import os\nos.abort()\n"}
    )


def add_pillow(environment: Environment) -> None:
    """As much of Pillow as transformers needs for its import, which then takes another way."""
    for entry in [*environment.packages.glob("PIL"), *environment.packages.glob("[Pp]illow-*")]:
        entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)
    image = "import enum\nclass Image: pass\nclass Resampling(enum.IntEnum):\n"
    image += "".join(
        f"    {name} = {number}\n"
        for number, name in enumerate(["NEAREST", "LANCZOS", "BILINEAR", "BICUBIC", "BOX", "HAMMING"])
    )
    files = {"PIL/__init__.py": "__version__ = '11.0.0'\n", "PIL/Image.py": image, "PIL/ImageOps.py": ""}
    add_distribution(environment, "Pillow", "11.0.0", files)


def apply_only(environment: Environment, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tuple(patch for patch in load_patch_set() if patch.name == name)
    monkeypatch.setattr(in_process, "load_patch_set", lambda: chosen)
    in_process.apply(environment.python)


@pytest.mark.parametrize("pillow", [False, True], ids=["without Pillow", "with Pillow"])
def test_speech_survives_an_aborting_torchvision(
    environment: Environment, checkpoint: Path, pillow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_aborting_torchvision(environment)
    if pillow:
        add_pillow(environment)
    # So that only torchvision can be what stops it.
    apply_only(environment, "torchaudio-soundfile", monkeypatch)
    before = environment.run(SPEAK)
    assert before.returncode == -signal.SIGABRT, before.stderr

    assert patcher("apply", "--python", str(environment.python))[0] == 0
    after = environment.run(SPEAK, str(checkpoint))
    assert after.returncode == 0, after.stderr
    assert int(after.stdout.split("samples ")[1]) > 1920


ALL_MODULES = """
import importlib, sys
for name in ["image_utils", "image_transforms", "image_processing_utils_fast", "video_utils",
             "video_processing_utils", "processing_utils", "modeling_utils", "loss.loss_utils",
             "models.auto", "models.auto.processing_auto", "models.auto.image_processing_auto",
             "models.auto.video_processing_auto", "models.mimi.modeling_mimi", "pipelines"]:
    importlib.import_module("transformers." + name)
assert "torchvision" not in sys.modules
"""


def test_no_module_on_the_way_imports_torchvision(environment: Environment) -> None:
    add_aborting_torchvision(environment)
    add_pillow(environment)
    assert patcher("apply", "--python", str(environment.python))[0] == 0
    done = environment.run(ALL_MODULES)
    assert done.returncode == 0, done.stderr


VISION_CALLS = """
import json
import sys
import torch
from transformers import CLIPImageProcessorFast
from transformers.image_processing_utils_fast import BaseImageProcessorFast
from transformers.loss import loss_utils
from transformers.models.clip.image_processing_clip_fast import CLIPImageProcessorFast as direct
from transformers.video_utils import load_video, read_video_torchvision

image = torch.zeros(3, 8, 8)
calls = {name: loss_utils.LOSS_MAPPING[name] for name in sys.argv[1:]}
calls |= {
    "lazy class": CLIPImageProcessorFast,
    "resize": lambda: BaseImageProcessorFast.resize(None, image, {"height": 4, "width": 4}),
    "load_video": lambda: load_video("no.mp4", backend="torchvision"),
    "read_video": lambda: read_video_torchvision("no.mp4", None),
}
said = {}
for name, call in calls.items():
    try:
        call()
        said[name] = "no error"
    except ImportError as error:
        said[name] = str(error)
    except Exception as error:
        said[name] = repr(error)
print("SAID" + json.dumps(said))
"""
VISION_LOSSES = {
    "ForSegmentation",
    "ForObjectDetection",
    "DeformableDetrForObjectDetection",
    "ConditionalDetrForObjectDetection",
    "DabDetrForObjectDetection",
    "GroundingDinoForObjectDetection",
    "MMGroundingDinoForObjectDetection",
    "ConditionalDetrForSegmentation",
    "RTDetrForObjectDetection",
    "RTDetrV2ForObjectDetection",
    "DFineForObjectDetection",
}


def test_vision_users_get_an_error_that_names_the_patch(environment: Environment, tmp_path: Path) -> None:

    add_aborting_torchvision(environment)
    add_pillow(environment)
    assert patcher("apply", "--python", str(environment.python))[0] == 0
    video = tmp_path / "no.mp4"
    video.touch()
    done = environment.run(VISION_CALLS.replace("no.mp4", str(video)), *VISION_LOSSES)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.split("SAID")[1])
    assert set(said) == VISION_LOSSES | {"lazy class", "resize", "load_video", "read_video"}
    silent = {name: words for name, words in said.items() if "transformers-vision" not in words}
    assert silent == {}


TEXT_LOSSES = """
import torch
from transformers.loss.loss_utils import LOSS_MAPPING
torch.manual_seed(0)
logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
class Config:
    num_labels, problem_type = 7, "single_label_classification"
print(len(LOSS_MAPPING), [key for key in LOSS_MAPPING])
for name in ["ForCausalLM", "ForConditionalGeneration", "CsmForConditionalGeneration", "ForMaskedLM"]:
    print(name, LOSS_MAPPING[name](logits, labels, vocab_size=7).item())
for name in ["ForSequenceClassification", "ForAudioClassification"]:
    print(name, LOSS_MAPPING[name](labels[:, 0], logits[:, 0], Config).item())
print("ForTokenClassification", LOSS_MAPPING["ForTokenClassification"](logits, labels, Config).item())
print(LOSS_MAPPING["ForQuestionAnswering"](logits[:, 0], logits[:, 1], labels[:, 0], labels[:, 1]).item())
"""


def test_text_and_speech_losses_compute_what_they_did(environment: Environment, patched: Environment) -> None:
    before, after = environment.run(TEXT_LOSSES), patched.run(TEXT_LOSSES)
    assert before.returncode == after.returncode == 0, before.stderr + after.stderr
    assert after.stdout == before.stdout
