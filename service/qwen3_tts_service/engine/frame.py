"""One frame of every slot: talker step, sampling, 15 code-predictor steps, the talker's next input.

``FrameModel.frame`` is pure tensor code that changes its state in place and never waits for the device, so a
graph can hold it whole. A frame is the same program from the first on: admission fills keys and values up to
the prompt's last position but one, and the last one is the first frame's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints.load import LoadedModel
from ..errors import InputTooLong, InvalidValue
from ..native import NotCompiled
from ..speech.request import DRAWING, Sampling
from . import sampling as draw
from .linear import Int8Matrix, Matrix, Weights, laid_out, linear
from .transformer import Stack, StackWeights, release_weights
from .widening import WidenedMatrix, Widening

CODE_GROUPS = 16
#: Upstream never draws the last ids of the talker's vocabulary, but for the end of speech.
_SUPPRESSED_IDS = 1024
#: Prompts are padded to a multiple of the smallest, then to the next of these: few shapes to compile.
PREFILL_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)


class FramePrompt(Protocol):
    """What admission needs of a prompt."""

    @property
    def embeds(self) -> Tensor:
        """[positions, hidden], at least one position."""

    @property
    def trailing(self) -> Tensor:
        """[n, hidden]: text that is added to the first n frames' sums."""


@dataclass(eq=False)
class FrameState:
    """Everything that a frame reads and changes, one row per slot. Only the engine's thread touches it."""

    x: Tensor  # [slots, hidden]: the talker's input of the coming frame
    position: Tensor  # [slots] int64: where it stands
    step: Tensor  # [slots] int64: frames spoken so far
    max_frames: Tensor  # [slots] int64
    active: Tensor  # [slots] bool, set by the host: rows that are to advance
    done: Tensor  # [slots] bool: ended by itself, advances no more
    codes: Tensor  # [slots, 16] int32: the newest frame; codebook 0 is the end-of-speech id after an end
    seen: Tensor  # [slots, vocabulary] bool: codes of codebook 0 spoken so far
    trailing: Tensor  # [slots, max_trailing, hidden]
    trailing_length: Tensor  # [slots] int64
    seed: Tensor  # [slots] int64
    greedy: Tensor  # [slots] bool
    temperature: Tensor  # [slots] float32, as the rest
    top_k: Tensor  # [slots] int64
    top_p: Tensor
    repetition_penalty: Tensor
    subtalker_temperature: Tensor
    subtalker_top_k: Tensor  # [slots] int64
    subtalker_top_p: Tensor

    def rows(self, batch: int) -> FrameState:
        """Views of the first ``batch`` slots."""
        return FrameState(**{field.name: getattr(self, field.name)[:batch] for field in fields(self)})


#: As :func:`.sampling.sample`; takes its settings by name.
SampleFunction = Callable[..., Tensor]


class FrameModel:
    """The language model of one checkpoint, laid out for whole frames over ``slots`` voices at once.

    Replaceable by faster versions: ``talker.layer_fn``, ``predictor.layer_fn``, ``prefill_fn`` and
    ``sample_fn``.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        slots: int,
        positions: int = 2048,
        max_trailing: int = 2048,
        weights: Weights = "bf16",
        release_upstream: bool = False,
        kernels: Path | None = None,
    ) -> None:
        """Copy and fuse the weights of ``model``.

        ``positions`` bounds prompt and frames of a slot together. ``release_upstream`` gives upstream's layers
        back while they are copied: prompts can still be built with it, speech cannot be generated. ``weights``
        as in :mod:`.linear`. ``kernels`` is where the CPU's product of :mod:`.widening` is built and kept; None: it
        is done without. Raises CheckpointError for a stack that the engine does not compute.
        """
        self.slots, self.positions, self.max_trailing = slots, positions, max_trailing
        self.device, self.dtype = model.device, model.dtype
        #: Whether weights are rounded to 8 bits.
        self.rounded = weights == "int8"
        #: Why weights are read in a slower form than this device's fastest, where they are.
        self.slower_because = ""
        widening = self._widening(kernels)
        upstream: Any = model.upstream.model
        talker, predictor = upstream.talker, upstream.talker.code_predictor
        talker_config = upstream.config.talker_config
        self.eos: int = talker_config.codec_eos_token_id
        self.talker = Stack(
            StackWeights(
                talker.model,
                positions=positions,
                weights=weights,
                release=release_upstream,
                widening=widening,
            ),
            slots=slots,
            # One more than is used: torch.compile takes a length that is all of a dimension for a constant.
            positions=positions + 1,
        )
        self.predictor = Stack(
            StackWeights(
                predictor.model,
                positions=CODE_GROUPS,
                weights=weights,
                release=release_upstream,
                widening=widening,
            ),
            slots=slots,
            positions=CODE_GROUPS,
        )
        self.sample_fn: SampleFunction = draw.sample
        # None, not its own method: a model that is let go shall be freed at once, without a search for cycles.
        self.prefill_fn: Callable[[int, Tensor], None] | None = None
        with torch.no_grad():
            self._take_heads_and_embeddings(
                talker, predictor, partial(laid_out, weights=weights, widening=widening), release_upstream
            )
            pad_id = torch.tensor([upstream.config.tts_pad_token_id], device=self.device)
            self.pad = talker.text_projection(talker.get_text_embeddings()(pad_id))[0].clone()  # [hidden]
        self.suppressed = torch.zeros(talker_config.vocab_size, dtype=torch.bool, device=self.device)
        self.suppressed[-_SUPPRESSED_IDS:] = True
        self.suppressed[self.eos] = False
        self._predictor_position = torch.arange(CODE_GROUPS, device=self.device)
        self._predictor_mask = self.mask(self._predictor_position[None], CODE_GROUPS)
        self.state = self._empty_state(talker_config.vocab_size)

    def _widening(self, kernels: Path | None) -> Widening | None:
        if kernels is None or self.device.type != "cpu" or self.dtype is not torch.float32 or self.rounded:
            return None
        try:
            return Widening(kernels)
        except NotCompiled as reason:
            self.slower_because = f"weights are read as float32, not as bfloat16: {reason}"
            return None

    def _take_heads_and_embeddings(
        self, talker: Any, predictor: Any, lay_out: Callable[[Tensor], Matrix], release: bool
    ) -> None:
        self.head = lay_out(talker.codec_head.weight.detach().clone())  # [vocabulary, hidden]
        # 15 of [codebook, hidden]
        self.heads = [lay_out(head.weight.detach().clone()) for head in predictor.lm_head]
        if release:
            release_weights(talker.codec_head)
            release_weights(predictor.lm_head)
        self.embedding = talker.model.codec_embedding.weight.detach().clone()  # [vocabulary, hidden]
        tables = predictor.model.codec_embedding
        self.embeddings = torch.stack([table.weight.detach() for table in tables])  # [15, codebook, hidden]
        # Upstream's prompts read the same memory from now on, so that there is one copy.
        talker.model.codec_embedding.weight.data = self.embedding
        for table, shared in zip(tables, self.embeddings, strict=True):
            table.weight.data = shared
        self._offsets = torch.arange(len(tables), device=self.device) * self.embeddings.shape[1]
        projection = predictor.small_to_mtp_projection
        self.projection: tuple[Tensor, Tensor] | None = None
        if isinstance(projection, torch.nn.Linear):
            self.projection = (projection.weight.detach().clone(), projection.bias.detach().clone())
        # What the predictor reads of each code, projected once instead of in every frame.
        self.first_input = self._project(self.embedding)  # [vocabulary, predictor hidden]
        self.inputs = [
            self._project(table) for table in self.embeddings
        ]  # 15 of [codebook, predictor hidden]

    @property
    def bytes_a_weight(self) -> int:
        """What a number of a matrix takes in memory, and what reading it costs."""
        values = self.head.values if isinstance(self.head, (Int8Matrix, WidenedMatrix)) else None
        return self.dtype.itemsize if values is None else values.itemsize

    def _project(self, x: Tensor) -> Tensor:
        return x if self.projection is None else functional.linear(x, *self.projection)

    def _empty_state(self, vocabulary: int) -> FrameState:
        def of(dtype: torch.dtype, *shape: int, value: float = 0) -> Tensor:
            return torch.full((self.slots, *shape), value, dtype=dtype, device=self.device)

        hidden = self.talker.weights.norm.shape[0]
        return FrameState(
            x=of(self.dtype, hidden),
            position=of(torch.int64),
            step=of(torch.int64),
            max_frames=of(torch.int64),
            active=of(torch.bool),
            done=of(torch.bool),
            codes=of(torch.int32, CODE_GROUPS),
            seen=of(torch.bool, vocabulary),
            trailing=of(self.dtype, self.max_trailing, hidden),
            trailing_length=of(torch.int64),
            seed=of(torch.int64),
            greedy=of(torch.bool),
            temperature=of(torch.float32, value=1),
            top_k=of(torch.int64),
            top_p=of(torch.float32, value=1),
            repetition_penalty=of(torch.float32, value=1),
            subtalker_temperature=of(torch.float32, value=1),
            subtalker_top_k=of(torch.int64),
            subtalker_top_p=of(torch.float32, value=1),
        )

    def admit(self, slot: int, prompt: FramePrompt, sampling: Sampling, seed: int, max_frames: int) -> int:
        """Read ``prompt`` into ``slot``, whatever it held before, and make it active.

        Returns how many frames it may speak: ``max_frames``, or as many as fit behind the prompt. ``seed`` is
        any integer, its low 64 bits count. Raises InputTooLong for a prompt with no room behind it or with too
        much trailing text, and InvalidValue for ``max_frames`` below 1.
        """
        count, trailing = prompt.embeds.shape[0], prompt.trailing.shape[0]
        if count > self.positions:
            raise InputTooLong(
                f"the prompt has {count} positions, this engine's slots hold {self.positions} with the speech; "
                "shorten text, instructions or the recording",
                param="input",
            )
        if trailing > self.max_trailing:
            raise InputTooLong(
                f"the text has {trailing} tokens, this engine feeds at most {self.max_trailing} while speaking; "
                "shorten it, or feed it whole",
                param="input",
            )
        if max_frames < 1:
            raise InvalidValue(f"max_frames is {max_frames}, it must be at least 1", param="max_frames")
        # The first frame stands at the prompt's last position.
        fitting = min(max_frames, self.positions - count + 1)
        (self.prefill_fn or self.prefill)(slot, prompt.embeds[:-1])
        self.predictor.cache.clear(slot)
        state = self.state
        state.x[slot] = prompt.embeds[-1]
        state.position[slot] = count - 1
        state.step[slot] = 0
        state.max_frames[slot] = fitting
        state.done[slot] = False
        state.codes[slot] = 0
        state.seen[slot] = False
        state.trailing[slot, :trailing] = prompt.trailing
        state.trailing_length[slot] = trailing
        state.seed[slot] = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
        for name in ("greedy", *DRAWING):
            getattr(state, name)[slot] = getattr(sampling, name)
        state.active[slot] = True
        return fitting

    def prefill(self, slot: int, embeds: Tensor) -> None:
        """Fill the slot's keys and values for embeds [positions, hidden], padded to a length bucket."""
        count = embeds.shape[0]
        self.talker.cache.clear(slot)
        if count == 0:
            return
        padded = min(next((size for size in PREFILL_LENGTHS if size >= count), count), self.positions)
        x = functional.pad(embeds, (0, 0, 0, padded - count))[None]
        position = torch.arange(padded, device=self.device)[None]
        # Padding is only attended to by padding, and frames overwrite it before they look at it.
        self.talker.prefill(x, position, self.mask(position, padded), slot)

    def move(self, source: int, target: int, *, length: int | None = None) -> None:
        """Copy a slot's whole state onto another. ``length``: positions in use, when the caller knows."""
        self.talker.cache.copy(source, target, self.positions if length is None else length)
        for field in fields(self.state):
            tensor = getattr(self.state, field.name)
            tensor[target] = tensor[source]

    def frame(self, batch: int, length: int) -> None:
        """One frame of the first ``batch`` slots; attention reads the first ``length`` positions.

        Rows that are inactive or done keep their state. ``length`` must exceed the position of every row that
        advances. The codes are in ``state.codes``; a row whose ``done`` turned True with the end-of-speech id in
        codebook 0 said nothing in this frame.
        """
        state = self.state.rows(batch)
        advancing = state.active & ~state.done
        # Copied: to torch.compile the state is another kind of tensor than what a layer returns in inference
        # mode, and the first layer would need a version of its own.
        x = state.x[:, None].clone()
        hidden = self.talker.step(x, state.position[:, None], self.mask(state.position[:, None], length))
        scores = draw.restrict(
            linear(hidden[:, 0], self.head).float(),
            seen=state.seen,
            penalty=state.repetition_penalty,
            step=state.step,
            suppressed=self.suppressed,
            eos=self.eos,
        )
        key = draw.frame_key(state.seed, state.step)
        first = self.sample_fn(
            scores,
            temperature=state.temperature,
            top_k=state.top_k,
            top_p=state.top_p,
            greedy=state.greedy,
            key=key,
            codebook=0,
        )
        others = self._predict(state, hidden, first, key)
        self._advance(state, advancing, first, others)

    def _predict(self, state: FrameState, hidden: Tensor, first: Tensor, key: Tensor) -> Tensor:
        """Codebooks 1 to 15 [batch, 15] from the talker's output [batch, 1, hidden] and codebook 0 [batch]."""
        batch = first.shape[0]
        x = torch.cat((self._project(hidden), functional.embedding(first, self.first_input)[:, None]), dim=1)
        start, codes = 0, []
        for group, head in enumerate(self.heads):
            last = group + 2
            position = self._predictor_position[start:last].expand(batch, -1)
            mask = self._predictor_mask[:, :, start:last].expand(batch, -1, -1, -1)
            output = self.predictor.step(x, position, mask)[:, -1]
            code = self.sample_fn(
                linear(output, head).float(),
                temperature=state.subtalker_temperature,
                top_k=state.subtalker_top_k,
                top_p=state.subtalker_top_p,
                greedy=state.greedy,
                key=key,
                codebook=group + 1,
            )
            codes.append(code)
            start = last
            x = functional.embedding(code, self.inputs[group])[:, None]
        return torch.stack(codes, dim=1)

    def _advance(self, state: FrameState, advancing: Tensor, first: Tensor, others: Tensor) -> None:
        """Write the frame's results into the rows that advance, in place."""
        batch = first.shape[0]
        embedded = torch.cat(
            (
                functional.embedding(first, self.embedding)[:, None],
                functional.embedding(others + self._offsets, self.embeddings.flatten(0, 1)),
            ),
            dim=1,
        ).sum(dim=1)
        rows = torch.arange(batch, device=self.device)
        text = state.trailing[rows, state.step.clamp(max=self.max_trailing - 1)]
        text = torch.where((state.step < state.trailing_length)[:, None], text, self.pad)
        ended = (first == self.eos) | (state.step + 1 >= state.max_frames)
        going = advancing & ~ended
        codes = torch.cat((first[:, None], others), dim=1).to(torch.int32)
        state.codes.copy_(torch.where(advancing[:, None], codes, state.codes))
        state.done.logical_or_(advancing & ended)
        state.x.copy_(torch.where(going[:, None], embedded + text, state.x))
        state.seen.scatter_(1, first[:, None], going[:, None] | state.seen.gather(1, first[:, None]))
        state.position.add_(going)
        state.step.add_(going)

    def mask(self, position: Tensor, length: int) -> Tensor:
        """What position [batch, tokens] may not see, as -inf to add: [batch, 1, tokens, length]."""
        hidden = torch.arange(length, device=self.device) > position[:, :, None]
        return torch.zeros((), dtype=self.dtype, device=self.device).masked_fill(hidden, -torch.inf)[:, None]
