"""What a loaded checkpoint can speak: a request is checked here and put into the model's token ids.

The one implementation for all engines, so that they refuse the same requests with the same words.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoints.load import Checkpoint, LoadedModel
from ..errors import (
    CheckpointError,
    InputTooLong,
    InvalidValue,
    NotSupportedByModel,
    UnknownLanguage,
    UnknownVoice,
    shown,
)
from ..speech.request import DRAWING, CloneReference, Sampling, SpeechRequest, VoicePrompt
from .voice import check_recording, frames_of

#: Upstream drops instructions silently for this size.
_SIZE_WITHOUT_INSTRUCTIONS = "0b6"

#: Positions of the prompt and the text fed after it, all together. The engine keeps 2048 positions a slot, so
#: at least 512 frames (41 s) are left to speak in.
MAX_POSITIONS = 1536

#: Tokens of upstream's templates before and after the words: ``<|im_start|>ROLE\\n`` and ``<|im_end|>\\n``,
#: behind the text to speak also the next ``<|im_start|>assistant\\n``.
TEMPLATE_HEAD, TEMPLATE_TAIL, TEXT_TAIL = 3, 2, 5


def default_sampling(checkpoint: Checkpoint) -> Sampling:
    """The sampling that the checkpoint's ``generation_config.json`` asks for.

    As upstream: what it leaves out has the value of :class:`Sampling`. Raises CheckpointError when the file
    holds a value out of range.
    """
    file = checkpoint.path / "generation_config.json"
    stored: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values = {name: stored[name] for name in DRAWING if stored.get(name) is not None}
    draws, subtalker_draws = (stored.get(name, True) for name in ("do_sample", "subtalker_dosample"))
    # Only the likeliest candidate kept is the same as not drawing.
    if not draws:
        values["top_k"] = 1
    if not subtalker_draws:
        values["subtalker_top_k"] = 1
    try:
        return Sampling(**values, greedy=not draws and not subtalker_draws)
    except InvalidValue as error:
        raise CheckpointError(f"{file}: {error.message}") from error


@dataclass(frozen=True)
class Script:
    """A checked request in token ids, each [1, tokens] int64 on the CPU and inside upstream's template.

    ``text`` is what shall be spoken, ``instructions`` how, ``reference_text`` what the recording to clone
    says. ``language`` and ``voice`` are spelled as in the checkpoint's config, ``auto`` for no language.
    """

    text: torch.Tensor
    instructions: torch.Tensor | None
    reference_text: torch.Tensor | None
    language: str
    voice: str | None


class RequestReader:
    """Checks requests against one checkpoint and tokenizes them; several threads may ask at once.

    Attributes: ``speakers`` and ``languages`` (names in the checkpoint's config, languages without dialects
    but with ``auto``), ``model_type`` and ``model_size`` as the config spells them.
    """

    def __init__(self, model: LoadedModel) -> None:
        talker = model.checkpoint.config["talker_config"]
        self.speakers: tuple[str, ...] = tuple(talker.get("spk_id") or ())
        self.languages: tuple[str, ...] = (
            "auto",
            *(name for name in talker["codec_language_id"] if "dialect" not in name),
        )
        self.model_type = model.checkpoint.model_type
        self.model_size = model.checkpoint.model_size
        config: Any = model.upstream.model.config.talker_config
        self._hidden_size: int = config.hidden_size
        self._codebooks: int = config.num_code_groups
        self._codebook_size: int = config.code_predictor_config.vocab_size
        self._tokenizer: Any = model.upstream.processor.tokenizer
        self._control_ids = torch.tensor(sorted(self._tokenizer.added_tokens_decoder))
        # A fast tokenizer keeps padding and truncation as state that calls may change under each other.
        self._tokenizing = threading.Lock()

    def check(self, request: SpeechRequest) -> None:
        """Raise the InvalidRequest that speaking ``request`` would raise, without computing anything."""
        self.read(request)

    def read(self, request: SpeechRequest) -> Script:
        """Check ``request`` and tokenize it. Raises one of the InvalidRequest family."""
        if self.model_type == "base":
            self._check_clone(request)
        else:
            self._check_voice(request)
        language = (request.language or "auto").lower()
        if language not in self.languages:
            raise UnknownLanguage(
                f"language {shown(request.language)} is not known: choose from {', '.join(self.languages)}",
                param="language",
            )
        if not request.text.strip():
            raise InvalidValue("the text is empty", param="input")
        if request.max_frames < 1:
            raise InvalidValue(
                f"max_frames is {request.max_frames}, it must be at least 1", param="max_frames"
            )
        instructions, reference_text = request.instructions, request.clone and request.clone.text
        script = Script(
            text=self._tokenize(
                f"<|im_start|>assistant\n{request.text}<|im_end|>\n<|im_start|>assistant\n",
                TEXT_TAIL,
                "input",
            ),
            instructions=self._tokenize(
                f"<|im_start|>user\n{instructions}<|im_end|>\n", TEMPLATE_TAIL, "instructions"
            )
            if instructions
            else None,
            reference_text=self._tokenize(
                f"<|im_start|>assistant\n{reference_text}<|im_end|>\n", TEMPLATE_TAIL, "clone"
            )
            if reference_text
            else None,
            language=language,
            voice=request.voice.lower() if request.voice else None,
        )
        self._check_length(request, script)
        return script

    def _check_voice(self, request: SpeechRequest) -> None:
        """For the checkpoints that speak without a recording."""
        if request.clone is not None:
            raise NotSupportedByModel(
                f"a {self.model_type} checkpoint cannot clone a voice; leave the recording out, or load a base "
                "checkpoint",
                param="clone",
            )
        if self.model_type == "voice_design":
            if request.voice is not None:
                raise UnknownVoice(
                    f"voice {shown(request.voice)}: a VoiceDesign checkpoint has no built-in voices. "
                    "Describe the voice in the instructions and leave the voice out",
                    param="voice",
                )
            if not request.instructions:
                raise InvalidValue(
                    "`instructions` is missing: describe the voice that shall speak", param="instructions"
                )
        elif request.voice is None:
            raise InvalidValue(f"`voice` is missing: choose from {', '.join(self.speakers)}", param="voice")
        elif request.voice.lower() not in self.speakers:
            raise UnknownVoice(
                f"voice {shown(request.voice)} is not known: choose from {', '.join(self.speakers)}",
                param="voice",
            )
        if request.instructions and self.model_size == _SIZE_WITHOUT_INSTRUCTIONS:
            raise NotSupportedByModel(
                "the 0.6B models ignore instructions; leave them out, or load a 1.7B checkpoint",
                param="instructions",
            )

    def _check_clone(self, request: SpeechRequest) -> None:
        """For base checkpoints, which speak in the voice of a recording."""
        if request.clone is None:
            raise NotSupportedByModel(
                "this is a base checkpoint: it only clones a voice from a recording. Load a CustomVoice "
                "checkpoint for built-in voices, or a VoiceDesign one to describe a voice",
                param="model",
            )
        if request.voice is not None:
            raise UnknownVoice(
                f"voice {shown(request.voice)}: a base checkpoint has no built-in voices. Leave the voice out, "
                "the recording is the voice",
                param="voice",
            )
        if request.instructions:
            raise NotSupportedByModel(
                "a base checkpoint takes no instructions; leave them out, or load a CustomVoice checkpoint",
                param="instructions",
            )
        if request.clone.text is not None and not request.clone.text.strip():
            raise InvalidValue(
                "the text of the recording is empty: write down what is said in it, or leave it out to take "
                "only the sound of the voice",
                param="clone",
            )
        if isinstance(request.clone, VoicePrompt):
            self._check_kept_voice(request.clone)
        else:
            check_recording(request.clone)

    def _check_kept_voice(self, voice: VoicePrompt) -> None:
        if voice.speaker_embedding.shape != (self._hidden_size,):
            raise InvalidValue(
                f"the voice has an embedding of shape {voice.speaker_embedding.shape}, this checkpoint needs "
                f"({self._hidden_size},): make it again from the recording",
                param="clone",
            )
        if (voice.codes is None) != (voice.text is None):
            raise InvalidValue(
                "the voice must hold both the codes of the recording and its text, or neither", param="clone"
            )
        codes = voice.codes
        if codes is not None and not (
            codes.ndim == 2
            and codes.shape[1] == self._codebooks
            and len(codes)
            and 0 <= codes.min() <= codes.max() < self._codebook_size
        ):
            raise InvalidValue(
                f"the codes of the voice have shape {codes.shape}, they must be [frames, {self._codebooks}] "
                f"from 0 to {self._codebook_size - 1}: make it again from the recording",
                param="clone",
            )

    def _tokenize(self, templated: str, tail: int, param: str) -> torch.Tensor:
        """Token ids [1, tokens] of the words in their template. Raises InvalidValue for control words."""
        try:
            templated.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidValue(
                f"`{param}` holds half of a surrogate pair, which is no character", param=param
            ) from error
        with self._tokenizing:
            ids = torch.tensor([self._tokenizer(templated)["input_ids"]])
        words = ids[0, TEMPLATE_HEAD:-tail]
        if (control := torch.isin(words, self._control_ids)).any():
            word = self._tokenizer.decode(words[control][:1])
            raise InvalidValue(
                f"`{param}` holds {shown(word)}, a control word of the model: leave it out", param=param
            )
        return ids

    def _check_length(self, request: SpeechRequest, script: Script) -> None:
        parts = {
            "text": script.text.shape[1],
            "instructions": 0 if script.instructions is None else script.instructions.shape[1],
            "recording": _recorded_frames(request.clone),
            "text of the recording": 0 if script.reference_text is None else script.reference_text.shape[1],
        }
        total = sum(parts.values())
        if total > MAX_POSITIONS:
            named = ", ".join(f"{part} {count}" for part, count in parts.items() if count)
            largest = max(parts, key=lambda part: parts[part])
            raise InputTooLong(
                f"the request takes {total} positions of the model ({named}) and may take {MAX_POSITIONS}: "
                f"shorten the {largest}",
                param="input"
                if largest == "text"
                else "instructions"
                if largest == "instructions"
                else "clone",
            )


def _recorded_frames(clone: CloneReference | VoicePrompt | None) -> int:
    """Frames of the recording that stand in the prompt: none when only the sound of the voice is taken."""
    if clone is None or clone.text is None:
        return 0
    if isinstance(clone, VoicePrompt):
        return 0 if clone.codes is None else len(clone.codes)
    return frames_of(clone)
