"""The waveform part of the decoder through kernels that are compiled on the host, for its own processor.

``kernels.cpp`` needs a C++ compiler and nothing else: no Python headers, no torch headers. It is built once per
host, kept beside the other compiled code and loaded with ctypes, which lets go of the interpreter's lock while
a kernel runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from .weights import Convolution, Snake, WaveformWeights

_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
)
_BUILD_LIMIT_S = 120


class NotCompiled(Exception):
    """There is no compiled way on this host; the message says why."""


def default_directory() -> Path:
    """Where built kernels are kept: systemd's cache directory, else the user's."""
    cache = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return (Path(cache) if cache else Path("~/.cache/qwen3-tts").expanduser()) / "compile"


def load_library(directory: Path) -> ctypes.CDLL:
    """The kernels' library, built now unless ``directory`` has it from an earlier start.

    Raises NotCompiled where there is no compiler, or where it fails.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NotCompiled("no C++ compiler: g++ is not on PATH")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
        built = directory / f"codec-{_fingerprint(version)}.so"
        if not built.is_file():
            _build(compiler, built)
        return ctypes.CDLL(str(built))
    except subprocess.CalledProcessError as error:
        raise NotCompiled(f"{compiler} failed: {error.stderr.decode(errors='replace')[-300:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompiled(f"the kernels could not be built or loaded: {error}") from error


def _fingerprint(compiler: bytes) -> str:
    """Of everything that the library depends on: a cache moved to another processor must not be used there."""
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        processor = next(line for line in information.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    parts = (
        _SOURCE.read_bytes(),
        compiler,
        " ".join(_FLAGS).encode(),
        platform.machine().encode(),
        processor.encode(),
    )
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _build(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and renamed: two processes that start together must not load half a library.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(fresh)]
        subprocess.run(command, capture_output=True, check=True, timeout=_BUILD_LIMIT_S)
        fresh.replace(target)


class _Convolution(ctypes.Structure):
    _fields_ = (
        ("channels", ctypes.c_int64),
        ("taps", ctypes.c_int64),
        ("dilation", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("frequency", ctypes.c_void_p),
        ("depth", ctypes.c_void_p),
    )


class _Target(ctypes.Structure):
    _fields_ = (
        ("residual", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_step", ctypes.c_int64),
        ("activated", ctypes.c_void_p),
        ("activated_step", ctypes.c_int64),
    )


class _Packed:
    """A convolution as the kernels read it, with the SnakeBeta that its result goes through."""

    def __init__(
        self, convolution: Convolution, then: Snake | None, panel: int, *, packed: bool = True
    ) -> None:
        self.history, self.stride, self.channels = (
            convolution.history,
            convolution.stride,
            convolution.channels,
        )
        width, depth = convolution.weight.shape
        padded = -(-width // panel) * panel
        self._kept: list[Tensor] = []
        if packed:
            rows = convolution.weight.new_zeros(padded, depth)
            rows[:width] = convolution.weight
            # One vector lane takes 32 bits of a row: one float, or two neighbouring bfloat16.
            together = 4 // rows.element_size()
            weight = (
                rows.view(padded // panel, panel, depth // together, together)
                .permute(0, 2, 1, 3)
                .contiguous()
            )
        else:
            weight = convolution.weight.float().contiguous()
        self._kept.append(weight)
        snake: tuple[int | None, int | None] = (None, None)
        if then is not None:
            repeats = convolution.stride
            snake = (
                self._pad(then.frequency.repeat(repeats), padded),
                self._pad(then.depth.repeat(repeats), padded),
            )
        self.structure = _Convolution(
            convolution.channels,
            convolution.taps,
            convolution.dilation,
            width,
            weight.data_ptr(),
            self._pad(convolution.bias, padded),
            *snake,
        )

    def _pad(self, values: Tensor, length: int) -> int:
        padded = torch.zeros(length)
        padded[: values.shape[0]] = values
        self._kept.append(padded)
        return padded.data_ptr()


class _Workspace:
    """Memory for activations that stays from call to call: fresh pages cost more than the work on them."""

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    def rows(self, name: str, streams: int, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        """[streams, rows, channels], contents undefined."""
        size = streams * rows * channels
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = torch.empty(size, dtype=dtype)
        return flat[:size].view(streams, rows, channels)


class CompiledWaveform:
    """Computes what :func:`layers.waveform` computes, on the CPU, in float32 or bfloat16.

    In bfloat16 the rows that meet weights are bfloat16; sums, the residual stream and SnakeBeta stay float32.
    One thread at a time. Raises NotCompiled where the kernels cannot be built, or cannot do ``dtype`` here.
    """

    def __init__(self, weights: WaveformWeights, dtype: torch.dtype, directory: Path) -> None:
        if dtype not in (torch.float32, torch.bfloat16):
            raise NotCompiled(f"no kernels for {dtype}")
        self._library = load_library(directory)
        self._dtype = dtype
        self._bfloat = int(dtype == torch.bfloat16)
        if self._bfloat and not self._library.codec_has_bfloat():
            raise NotCompiled("this processor has no bfloat16 dot product (AVX512_BF16)")
        panel = self._library.codec_panel()
        blocks = weights.blocks
        self._enter = _Packed(weights.enter, blocks[0].snake, panel)
        self._blocks: list[tuple[_Packed, list[tuple[_Packed, _Packed]]]] = []
        for index, block in enumerate(blocks):
            following = blocks[index + 1].snake if index + 1 < len(blocks) else weights.snake
            afterwards = [unit.snake_in for unit in block.units[1:]] + [following]
            units = [
                (_Packed(unit.dilated, unit.snake_out, panel), _Packed(unit.project, then, panel))
                for unit, then in zip(block.units, afterwards, strict=True)
            ]
            self._blocks.append((_Packed(block.upsample, block.units[0].snake_in, panel), units))
        self._leave = _Packed(weights.leave, None, panel, packed=False)
        self._workspace = _Workspace()

    def __call__(self, x: Tensor, histories: list[Tensor]) -> Tensor:
        """As :func:`layers.waveform`; ``histories`` are moved on in place."""
        streams, rows, _ = x.shape
        inputs = _Inputs(self._workspace, self._sequence(), histories, streams, self._dtype)
        source = inputs.begin(rows)
        source.fresh.copy_(x)
        target = inputs.begin(rows)
        self._convolve(self._enter, source, _Target(), target)
        for upsample, units in self._blocks:
            rows *= upsample.stride
            channels = units[0][0].channels
            stream = self._workspace.rows("residual", streams, rows, channels, torch.float32).data_ptr()
            source, target = target, inputs.begin(rows)
            self._convolve(upsample, source, _Target(None, stream, rows * channels), target)
            for dilated, project in units:
                source, target = target, inputs.begin(rows)
                # Of what the last unit adds up, only the activated form is needed.
                out = None if dilated is units[-1][0] else stream
                self._unit(dilated, project, source, _Target(stream, out, rows * channels), target)
        return self._sound(target)

    def _sequence(self) -> list[_Packed]:
        """The convolutions over more than one row, in the order of computation."""
        blocks = [
            packed for upsample, units in self._blocks for packed in (upsample, *(unit[0] for unit in units))
        ]
        return [self._enter, *blocks, self._leave]

    def _convolve(self, packed: _Packed, source: _Input, target: _Target, following: _Input) -> None:
        source.remember()
        target.activated, target.activated_step = following.fresh.data_ptr(), following.rows.stride(0)
        self._library.codec_convolve(
            self._bfloat,
            ctypes.byref(packed.structure),
            *source.arguments(),
            ctypes.byref(target),
            _threads(),
        )

    def _unit(
        self, dilated: _Packed, project: _Packed, source: _Input, target: _Target, following: _Input
    ) -> None:
        source.remember()
        target.activated, target.activated_step = following.fresh.data_ptr(), following.rows.stride(0)
        streams, rows, channels = source.fresh.shape
        between = self._workspace.rows("between", streams, rows, channels, self._dtype)
        self._library.codec_unit(
            self._bfloat,
            ctypes.byref(dilated.structure),
            ctypes.byref(project.structure),
            *source.arguments(),
            ctypes.byref(target),
            ctypes.c_void_p(between.data_ptr()),
            _threads(),
        )

    def _sound(self, source: _Input) -> Tensor:
        source.remember()
        sound = torch.empty(source.fresh.shape[:2])
        self._library.codec_leave(
            self._bfloat,
            ctypes.byref(self._leave.structure),
            *source.arguments(),
            ctypes.c_void_p(sound.data_ptr()),
            _threads(),
        )
        return sound


class _Input:
    """What a convolution reads: its history and, behind it, the fresh rows, without a copy between them."""

    def __init__(self, rows: Tensor, history: Tensor) -> None:
        self.rows, self._history = rows, history
        self.fresh = rows[:, history.shape[1] :]
        rows[:, : history.shape[1]].copy_(history)

    def remember(self) -> None:
        """Keep the newest rows for the next call; the fresh rows must have been written."""
        self._history.copy_(self.rows[:, self.rows.shape[1] - self._history.shape[1] :])

    def arguments(self) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]:
        """The rows' place, the step from stream to stream, the streams, the fresh rows of each."""
        streams, rows, _ = self.fresh.shape
        return (
            ctypes.c_void_p(self.rows.data_ptr()),
            ctypes.c_int64(self.rows.stride(0)),
            ctypes.c_int64(streams),
            ctypes.c_int64(rows),
        )


class _Inputs:
    """Hands out the inputs of one call in the order of computation, in two places by turns."""

    def __init__(
        self,
        workspace: _Workspace,
        sequence: list[_Packed],
        histories: list[Tensor],
        streams: int,
        dtype: torch.dtype,
    ) -> None:
        self._workspace, self._streams, self._dtype = workspace, streams, dtype
        self._coming = enumerate(zip(sequence, histories, strict=True))

    def begin(self, rows: int) -> _Input:
        """The next convolution's input, for ``rows`` rows that are about to be written."""
        index, (packed, history) = next(self._coming)
        name = "even" if index % 2 == 0 else "odd"
        size = packed.history + rows
        return _Input(self._workspace.rows(name, self._streams, size, packed.channels, self._dtype), history)


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())
