"""Open a checkpoint directory: check it, choose device and data type, load upstream's model.

The talker and the code predictor go to the chosen device; the codec stays on the CPU in float32 unless it is
told otherwise (``codec_device``).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError, ConfigurationError
from .geometry import MODEL_TYPES
from .memory import give_back, held_bytes
from .synthetic import is_synthetic

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

logger = logging.getLogger(__name__)

_TOKENIZER_TYPE = "qwen3_tts_tokenizer_12hz"
_FILES = (
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "speech_tokenizer/config.json",
    "speech_tokenizer/preprocessor_config.json",
)
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Checkpoint:
    """A directory that has been checked: every file is there and whole."""

    path: Path
    model_type: str
    model_size: str
    config: dict[str, Any]
    #: The safetensors files of talker and code predictor; more than one when they are sharded.
    weight_files: tuple[Path, ...]
    synthetic: bool


@dataclass(frozen=True)
class LoadedModel:
    """Upstream's model in memory, with the codec where it shall run."""

    checkpoint: Checkpoint
    upstream: Qwen3TTSModel
    device: torch.device
    dtype: torch.dtype
    codec_device: torch.device
    #: Bytes that the process held on ``device`` (:func:`.memory.held_bytes`) when the weights were not yet read.
    held_before: int

    @property
    def threads(self) -> int:
        """How many threads one operation of torch takes on a CPU, where nothing else is set."""
        return torch.get_num_threads()


def inspect(directory: Path | str) -> Checkpoint:
    """Check the files of a checkpoint without loading it.

    Raises CheckpointError that names what is missing, broken or of another kind. Weight files are opened, so
    one that was cut off is found here; their content is not compared with a hash.
    """
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; name the directory that holds config.json")
    missing = [name for name in _FILES if not (path / name).is_file()]
    weights = _weight_files(path)
    missing += [str(file.relative_to(path)) for file in weights if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{path} is not a complete Qwen3-TTS checkpoint: missing {', '.join(missing)}. "
            "Download it again, or write one with 'qwen3-tts checkpoint synthetic'"
        )
    config = _read_json(path / "config.json")
    _check_kind(path, config)
    stored = set[str]()
    for file in weights:
        stored |= tensor_names(file)
    _check_tensors(path, config, stored)
    return Checkpoint(
        path=path,
        model_type=config["tts_model_type"],
        model_size=str(config.get("tts_model_size")),
        config=config,
        weight_files=tuple(weights[:-1]),
        synthetic=is_synthetic(path),
    )


def choose_device(device: str) -> torch.device:
    """``auto`` is the first GPU that torch sees (ROCm calls itself cuda too), else the CPU.

    Raises ConfigurationError when the named device is not there.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda:0" if available else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(
            f"device {device!r} is not known: choose auto, cpu, cuda or cuda:N", param="device"
        ) from error
    if chosen.type not in {"cpu", "cuda"}:
        raise ConfigurationError(f"device {device!r}: choose auto, cpu, cuda or cuda:N", param="device")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if available else 0
        index = chosen.index or 0
        if index >= count:
            raise ConfigurationError(
                f"device {device!r} is not there: torch {torch.__version__} sees {count} GPUs. "
                "Check driver, the user's groups and that torch is built for this GPU; or set device to cpu",
                param="device",
            )
        return torch.device("cuda", index)
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on a GPU and float32 on the CPU. Raises ConfigurationError for an unknown name."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is not known: choose auto, bf16 or fp32", param="dtype")
    return _DTYPES[dtype]


def load(
    directory: Path | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    codec_device: Literal["cpu", "gpu"] = "cpu",
    cpu_threads: int = 0,
) -> LoadedModel:
    """Load a checkpoint into memory, ready to speak.

    ``cpu_threads`` is the number of threads that torch uses for one operation, 0 leaves its own choice.
    Raises CheckpointError for the directory and ConfigurationError for the other arguments.
    """
    checkpoint = inspect(directory)
    chosen = choose_device(device)
    kind = choose_dtype(dtype, chosen)
    codec_on = _choose_codec_device(codec_device, chosen)
    if cpu_threads:
        torch.set_num_threads(cpu_threads)

    with _quiet_imports():
        from qwen_tts import Qwen3TTSModel, Qwen3TTSTokenizer
    from transformers.utils import logging as transformers_logging

    # generate() repeats advice for its callers on every frame.
    transformers_logging.set_verbosity(logging.ERROR)
    # What is reserved and not used would be taken by these weights without a trace. And imports are no model's.
    give_back(chosen)
    held_before = held_bytes(chosen)
    try:
        upstream = Qwen3TTSModel.from_pretrained(
            str(checkpoint.path), dtype=kind, attn_implementation="sdpa", local_files_only=True
        )
        if kind is not torch.float32:
            # Upstream hands its dtype on to the codec, whose float32 weights would lose their last bits.
            upstream.model.load_speech_tokenizer(
                Qwen3TTSTokenizer.from_pretrained(
                    str(checkpoint.path / "speech_tokenizer"), dtype=torch.float32, local_files_only=True
                )
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not load: {error}") from error
    upstream.model.eval()
    _move(upstream.model, chosen)
    upstream.device = chosen
    codec = upstream.model.speech_tokenizer
    _move(codec.model.float().eval(), codec_on)
    codec.device = codec_on
    logger.info(
        "loaded %s (%s, %s) on %s in %s, codec on %s, %d CPU threads",
        checkpoint.path,
        checkpoint.model_type,
        checkpoint.model_size,
        chosen,
        kind,
        codec_on,
        torch.get_num_threads(),
    )
    return LoadedModel(checkpoint, upstream, chosen, kind, codec_on, held_before)


@contextlib.contextmanager
def codec_kernels(device: torch.device) -> Iterator[None]:
    """Run the codec without MIOpen on ROCm: it searches kernels anew for every length of audio.

    PyTorch's own convolutions (im2col and a matrix product) stay on the GPU. No effect elsewhere.
    """
    if device.type == "cuda" and torch.version.hip is not None:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield


def _choose_codec_device(codec_device: str, device: torch.device) -> torch.device:
    if codec_device == "cpu":
        return torch.device("cpu")
    if codec_device != "gpu":
        raise ConfigurationError(
            f"codec_device {codec_device!r} is not known: choose cpu or gpu", param="codec_device"
        )
    if device.type == "cpu":
        raise ConfigurationError(
            "codec_device is gpu, but the model runs on the CPU; set codec_device to cpu",
            param="codec_device",
        )
    return device


def _move(module: torch.nn.Module, device: torch.device) -> None:
    """Move ``module`` in place.

    Weights on the CPU may be views of the memory-mapped file. Copying such memory to a GPU is hundreds of
    times slower under some 7.0 kernels (ROCm issue 6358), so each tensor is copied to the heap first.
    """
    if device.type == "cpu":
        module.to(device)
        return
    for parameter in module.parameters():
        parameter.data = parameter.data.clone().to(device)
    module.to(device)


def _weight_files(path: Path) -> list[Path]:
    """The safetensors files of the model (one, or the shards of an index) and of the codec."""
    index = path / "model.safetensors.index.json"
    codec = path / "speech_tokenizer" / "model.safetensors"
    if not index.is_file():
        return [path / "model.safetensors", codec]
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index} has no weight_map; download it again")
    return [*(path / name for name in sorted(set(shards.values()))), codec]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not hold a JSON object")
    return content


def _check_kind(path: Path, config: dict[str, Any]) -> None:
    expected: dict[str, tuple[str, ...]] = {
        "model_type": ("qwen3_tts",),
        "tokenizer_type": (_TOKENIZER_TYPE,),
        "tts_model_type": MODEL_TYPES,
    }
    for key, allowed in expected.items():
        value = config.get(key)
        if value not in allowed:
            raise CheckpointError(
                f"{path / 'config.json'}: {key} is {value!r}, this service loads {' or '.join(allowed)}"
            )
    codec_kind = _read_json(path / "speech_tokenizer" / "config.json").get("model_type")
    if codec_kind != _TOKENIZER_TYPE:
        raise CheckpointError(
            f"{path / 'speech_tokenizer' / 'config.json'}: model_type is {codec_kind!r}, "
            f"this service loads {_TOKENIZER_TYPE}"
        )


def tensor_names(file: Path) -> set[str]:
    """The names in a safetensors file. Raises CheckpointError when it is not one, or not all of it."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return set(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a whole safetensors file ({file.stat().st_size} bytes): {error}. "
            "Download it again"
        ) from error


def _check_tensors(path: Path, config: dict[str, Any], stored: set[str]) -> None:
    """Every weight of the talker must be stored: upstream would fill a gap with random numbers and go on."""
    with _quiet_imports():
        from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
    try:
        with torch.device("meta"):
            model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**config))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path / 'config.json'} does not describe a model: {error}") from error
    gaps = sorted(name for name, _ in model.named_parameters() if name not in stored)
    if gaps:
        raise CheckpointError(
            f"{path}: {len(gaps)} weights that config.json calls for are not stored, among them {gaps[0]}"
        )


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Import upstream without its noise.

    It prints advertisements for optional packages. And the package ``sox`` that it imports asks a shell for a
    program of that name and complains on standard error and past all log levels when there is none, though only
    the 25 Hz tokenizer, which this service does not load, would run it. It hears that there is none, silently.
    """
    popen, log_of_sox = os.popen, logging.getLogger("sox")
    os.popen = lambda *_: io.StringIO()  # type: ignore[assignment]
    log_of_sox.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.popen = popen
        log_of_sox.disabled = False
