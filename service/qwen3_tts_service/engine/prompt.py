"""The talker's prompt for every kind of request, as upstream's ``generate`` makes it.

Source: ``Qwen3TTSForConditionalGeneration.generate`` and ``generate_icl_prompt`` in qwen_tts 0.1.1. Matrix
products keep upstream's shapes (one per piece of text), so that the embeddings are equal to the last bit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..checkpoints.load import LoadedModel
from ..cores import cores
from ..errors import NotSupportedByModel
from ..speech.request import CloneReference, Sampling, SpeechRequest, TextFeeding, VoicePrompt
from .requests import TEMPLATE_HEAD, TEMPLATE_TAIL, TEXT_TAIL, RequestReader, Script, default_sampling
from .voice import VoiceEncoder


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the talker reads before and while it speaks, in the model's data type on its device.

    ``embeds`` [positions, hidden] is read before the first frame. Frame number n is then followed by
    ``trailing[n]`` [hidden], and by :attr:`PromptBuilder.pad` when n is beyond ``trailing``. ``text_tokens``
    is the length of the text to speak. ``context`` int64 [frames, 16] are codes that the speech continues
    (cloning in context): the codec must hear them before the first frame, and their sound is not played.
    """

    embeds: torch.Tensor
    trailing: torch.Tensor
    text_tokens: int
    context: npt.NDArray[np.int64] | None = None


class PromptBuilder:
    """Builds prompts, on the calling thread; several threads may call at once.

    It holds the embeddings, the text projection and the encoders of the loaded model, so that the decoder
    layers may be freed. ``pad`` [hidden] is the embedding of "no text here", ``speakers`` and ``languages`` are
    the names that requests may use.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._reader = RequestReader(model)
        self.speakers, self.languages = self._reader.speakers, self._reader.languages
        self._device = model.device
        self._dtype = model.dtype
        config: Any = model.upstream.model.config
        self._config = config.talker_config
        self._default_sampling = default_sampling(model.checkpoint)
        talker: Any = model.upstream.model.talker
        self._text_embedding = talker.get_text_embeddings()
        self._text_projection = talker.text_projection
        self._codec_embedding = talker.get_input_embeddings()
        self._codebook_embeddings = (self._codec_embedding, *talker.code_predictor.get_input_embeddings())
        self._voices = VoiceEncoder(model) if self._reader.model_type == "base" else None
        with torch.no_grad():
            self._bos, self._eos, self._pad = self._text(
                torch.tensor([[config.tts_bos_token_id, config.tts_eos_token_id, config.tts_pad_token_id]])
            ).chunk(3, dim=1)
        self.pad: torch.Tensor = self._pad[0, 0].clone()

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that :meth:`build` would raise, without computing anything."""
        self._reader.check(request)

    def sampling(self, request: SpeechRequest) -> Sampling:
        """The request's sampling, or else the checkpoint's."""
        return request.sampling or self._default_sampling

    def encode_reference(self, recording: CloneReference) -> VoicePrompt:
        """Listen to a recording (seconds of work for a long one), so that many requests can use it.

        Raises InvalidValue for a recording that is of no use, NotSupportedByModel on a checkpoint that does
        not clone.
        """
        if self._voices is None:
            raise NotSupportedByModel(
                f"a {self._reader.model_type} checkpoint cannot clone a voice; load a base checkpoint",
                param="clone",
            )
        try:
            return self._voices.encode(recording)
        finally:
            cores.give_up_team()

    @torch.no_grad()
    def build(self, request: SpeechRequest) -> Prompt:
        """The prompt of ``request``, finished on its device. Raises one of the InvalidRequest family.

        A recording in ``request.clone`` is encoded here; give a :class:`VoicePrompt` to do that once.
        """
        script = self._reader.read(request)
        if isinstance(request.clone, CloneReference):
            request = replace(request, clone=self.encode_reference(request.clone))
        assert request.clone is None or isinstance(request.clone, VoicePrompt)
        with nullcontext() if self._device.type == "cuda" else cores.turn():
            return self._build(script, request.clone, request.feeding)

    def _build(self, script: Script, voice: VoicePrompt | None, feeding: TextFeeding) -> Prompt:
        codec = self._codec_prefix(script, voice)
        opening = [
            self._text(script.text[:, :TEMPLATE_HEAD]),
            torch.cat((self._pad.expand(-1, codec.shape[1] - 2, -1), self._bos), dim=1) + codec[:, :-1],
        ]
        if script.instructions is not None:
            opening.insert(0, self._text(script.instructions))
        if voice is not None and voice.codes is not None:
            body, trailing = self._in_context(script, voice.codes, feeding)
        else:
            body, trailing = self._plain(script, feeding)
        embeds = torch.cat([*opening, body], dim=1)[0]
        if self._device.type == "cuda":
            # The engine reads the prompt on a stream of its own.
            torch.cuda.current_stream(self._device).synchronize()
        return Prompt(
            embeds=embeds,
            trailing=trailing[0],
            text_tokens=script.text.shape[1] - TEMPLATE_HEAD - TEXT_TAIL,
            context=None if voice is None else voice.codes,
        )

    def _plain(self, script: Script, feeding: TextFeeding) -> tuple[torch.Tensor, torch.Tensor]:
        """What follows the opening without a recording, and the text for later: each [1, positions, hidden]."""
        words = script.text[:, TEMPLATE_HEAD:-TEXT_TAIL]
        bos = self._codec_bos()
        if feeding == "whole":
            text = torch.cat((self._text(words), self._eos), dim=1)
            text = text + self._codec([self._config.codec_pad_id] * text.shape[1])
            return torch.cat((text, self._pad + bos), dim=1), self._pad[:, :0]
        return self._text(words[:, :1]) + bos, torch.cat((self._text(words[:, 1:]), self._eos), dim=1)

    def _in_context(
        self, script: Script, codes: npt.NDArray[np.int64], feeding: TextFeeding
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`_plain` when the speech continues a recording: its text, then the new; its frames."""
        assert script.reference_text is not None
        words = torch.cat(
            (
                script.reference_text[:, TEMPLATE_HEAD:-TEMPLATE_TAIL],
                script.text[:, TEMPLATE_HEAD:-TEXT_TAIL],
            ),
            dim=1,
        )
        text = torch.cat((self._text(words), self._eos), dim=1)
        recorded = torch.from_numpy(codes).to(self._device)
        # [frames, 16, hidden], summed as the talker hears frames that it spoke itself.
        frames = torch.stack(
            [table(recorded[:, group]) for group, table in enumerate(self._codebook_embeddings)], dim=1
        )
        frames = torch.cat((self._codec_bos(), frames.sum(1)[None]), dim=1)
        if feeding == "whole":
            text = text + self._codec([self._config.codec_pad_id] * text.shape[1])
            return torch.cat((text, frames + self._pad), dim=1), self._pad[:, :0]
        missing = frames.shape[1] - text.shape[1]
        if missing > 0:
            text = torch.cat((text, self._pad.expand(-1, missing, -1)), dim=1)
        return text[:, : frames.shape[1]] + frames, text[:, frames.shape[1] :]

    def _codec_prefix(self, script: Script, voice: VoicePrompt | None) -> torch.Tensor:
        """Embeddings [1, positions, hidden] of language and speaker, then pad and bos."""
        config = self._config
        language = self._language_id(script)
        if language is None:
            ids = [config.codec_nothink_id, config.codec_think_bos_id, config.codec_think_eos_id]
        else:
            ids = [
                config.codec_think_id,
                config.codec_think_bos_id,
                language,
                config.codec_think_eos_id,
            ]
        parts = [self._codec(ids)]
        if voice is not None:
            speaker = torch.from_numpy(voice.speaker_embedding).to(self._device, self._dtype)
            parts.append(speaker.view(1, 1, -1))
        elif script.voice is not None:
            parts.append(self._codec([config.spk_id[script.voice]]))
        parts.append(self._codec([config.codec_pad_id, config.codec_bos_id]))
        return torch.cat(parts, dim=1)

    def _language_id(self, script: Script) -> int | None:
        """None lets the model guess. A speaker of a dialect speaks it whenever Chinese is not excluded."""
        ids: dict[str, int] = self._config.codec_language_id
        if script.voice is not None and script.language in {"chinese", "auto"}:
            dialect = self._config.spk_is_dialect[script.voice]
            if dialect:
                return ids[dialect]
        return None if script.language == "auto" else ids[script.language]

    def _text(self, ids: torch.Tensor) -> torch.Tensor:
        """Projected embeddings [1, tokens, hidden] of text ids [1, tokens]."""
        projected: torch.Tensor = self._text_projection(self._text_embedding(ids.to(self._device)))
        return projected

    def _codec(self, ids: list[int]) -> torch.Tensor:
        """Embeddings [1, positions, hidden] of ids in the talker's vocabulary."""
        embeddings: torch.Tensor = self._codec_embedding(torch.tensor([ids], device=self._device))
        return embeddings

    def _codec_bos(self) -> torch.Tensor:
        return self._codec([self._config.codec_bos_id])
