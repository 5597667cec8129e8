"""Which model speaks, and with which voice: one endpoint over all that are served.

A request that names a model gets that one. Otherwise the voice decides: a speaker goes to a custom-voice model that has
it, a saved voice or a recording to a base model, a description to a voice-design one. What no model here can do is
refused with the kind of checkpoint that could.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import Settings
from ..errors import InvalidValue, NotSupportedByModel, UnknownVoice, shown
from ..lifecycle import Lifecycle
from ..served_model import ServedModel
from ..speech.request import CloneReference, VoicePrompt
from ..voices.saved import SavedVoice
from ..voices.store import VoiceStore
from . import voice_field
from .aliases import Aliases

#: Types of checkpoints as their ``config.json`` has them, and as their publisher calls them.
_CALLED = {"custom_voice": "CustomVoice", "base": "Base", "voice_design": "VoiceDesign"}
#: Upstream drops instructions silently for this size.
_SIZE_WITHOUT_INSTRUCTIONS = "0b6"
#: More names than these make a message longer than anybody reads.
_NAMES_SHOWN = 30


@dataclass(frozen=True)
class Route:
    """Where a request goes. ``voice``, ``clone`` and ``instructions`` are those of its SpeechRequest.

    ``label`` is the voice as the journal names it: no words of the client's, and of a saved voice its id.
    """

    model: ServedModel
    voice: str | None = None
    clone: CloneReference | VoicePrompt | None = None
    instructions: str | None = None
    label: str = "-"


class Router:
    """Chooses among the models of one process."""

    def __init__(self, lifecycle: Lifecycle, settings: Settings, voices: VoiceStore) -> None:
        self._lifecycle = lifecycle
        self._voices = voices
        self._aliases = Aliases(settings)
        self._max_bytes, self._max_chars = settings.max_body_bytes, settings.max_input_chars

    def route(
        self, *, model: str | None, voice: str | dict[str, Any] | None, instructions: str | None
    ) -> Route:
        """Read the fields ``model`` and ``voice`` of a request that has these ``instructions``.

        Raises UnknownModel, UnknownVoice, NotSupportedByModel, and InvalidValue for a voice that is none.
        """
        named = self._named(model)
        wanted = voice_field.read(voice, max_bytes=self._max_bytes, max_chars=self._max_chars)
        if wanted.recording is not None:
            chosen = self._of_type("base", named, "a recording")
            return Route(chosen, clone=wanted.recording, instructions=instructions, label="(recording)")
        if wanted.design is not None:
            if instructions is not None:
                raise InvalidValue(
                    "`voice.design` and `instructions` are both there: say all of it in one of them",
                    param="instructions",
                )
            chosen = self._of_type("voice_design", named, "a description of a voice")
            return Route(chosen, instructions=wanted.design, label="(design)")
        if wanted.name is not None:
            return self._by_name(wanted.name, named, instructions)
        if named is None and instructions is not None and self._lifecycle.main.kind is not None:
            chosen = self._of_type(
                "voice_design", None, "a description of a voice (`instructions` without a `voice`)"
            )
            return Route(chosen, instructions=instructions, label="(design)")
        return Route(named or self._lifecycle.main, instructions=instructions)

    def of_type(self, model_type: str, model: str | None, what: str) -> ServedModel:
        """The model of that type, by its name where ``model`` is one. Raises UnknownModel and NotSupportedByModel."""
        return self._of_type(model_type, self._named(model), what)

    def speaks_with(self, voice: SavedVoice) -> ServedModel | None:
        """The model that a saved voice fits; None where none is served."""
        return next((model for model in self._all() if _fits(voice, model)), None)

    def check_name(self, name: str) -> None:
        """Raise InvalidValue where a saved voice of that name could not be told from a speaker or an alias."""
        if any(self._speaker(name, model) for model in self._all()):
            raise InvalidValue(
                f"`name` is {shown(name)}, which a speaker of this server has: choose another one",
                param="name",
            )

    def _by_name(self, name: str, named: ServedModel | None, instructions: str | None) -> Route:
        among = self._all() if named is None else [named]
        have_it = [model for model in among if self._speaker(name, model)]
        if instructions is not None:
            have_it.sort(key=lambda model: _size(model) == _SIZE_WITHOUT_INSTRUCTIONS)
        if have_it:
            speaker = self._speaker(name, have_it[0])
            return Route(have_it[0], voice=speaker, instructions=instructions, label=str(speaker))
        if (saved := self._voices.find(name)) is not None:
            return Route(
                self._for_saved(saved, named),
                clone=saved.prompt,
                instructions=instructions,
                label=saved.words.id,
            )
        if named is None and self._lifecycle.main.kind is not None:
            raise self._unknown(name)
        # The model says what it has.
        return Route(named or self._lifecycle.main, voice=name, instructions=instructions, label="(unknown)")

    def _for_saved(self, saved: SavedVoice, named: ServedModel | None) -> ServedModel:
        what = f"the saved voice {shown(saved.words.name)}"
        if named is None and (fitting := self.speaks_with(saved)) is not None:
            return fitting
        model = self._of_type("base", named, what)
        if model.kind is not None and not _fits(saved, model):
            raise NotSupportedByModel(
                f"{what} was taken by a Base checkpoint of the size {saved.words.model_size}, and {shown(model.name)} "
                f"is {_size(model)}: serve one of that size, or save the voice again with this one",
                param="voice",
            )
        return model

    def _of_type(self, model_type: str, named: ServedModel | None, what: str) -> ServedModel:
        suitable = [model for model in self._all() if _kind(model) == model_type]
        if named is None:
            if suitable:
                return suitable[0]
            if self._lifecycle.main.kind is None:
                return self._lifecycle.main
            here = "this server has " + ", ".join(map(_described, self._all()))
            way = "its operator adds one to `more_models`"
        else:
            if _kind(named) in (model_type, None):
                return named
            here = f"`model` is {_described(named)}"
            way = (
                f"leave `model` out, or name {shown(suitable[0].name)}"
                if suitable
                else "none is served; its operator adds one to `more_models`"
            )
        raise NotSupportedByModel(
            f"{what} takes a {_CALLED[model_type]} checkpoint, and {here}: {way}", param="voice"
        )

    def _unknown(self, name: str) -> UnknownVoice:
        speakers = dict.fromkeys(name for model in self._all() for name in _speakers(model))
        names = [*speakers, *(voice.words.name for voice in self._voices.all())]
        if not names:
            return UnknownVoice(
                f"voice {shown(name)} is not known: "
                + (
                    "a base checkpoint has no voices of its own; save one with POST /v1/audio/voices, or send a "
                    'recording as {"audio": "BASE64"}'
                    if any(_kind(model) == "base" for model in self._all())
                    else 'leave it out and describe the voice in `instructions` or {"design": "DESCRIPTION"}'
                ),
                param="voice",
            )
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return UnknownVoice(
            f"voice {shown(name)} is not known: choose from {', '.join(names[:_NAMES_SHOWN])}{more}",
            param="voice",
        )

    def _named(self, name: str | None) -> ServedModel | None:
        wanted = self._aliases.model(name, self._lifecycle.models)
        return None if wanted is None else self._lifecycle.model(wanted)

    def _speaker(self, name: str, model: ServedModel) -> str | None:
        """Which speaker of ``model`` is meant; None where none is."""
        speakers = _speakers(model)
        meant = (self._aliases.voice(name, speakers) or "").lower()
        return meant if meant in speakers else None

    def _all(self) -> Sequence[ServedModel]:
        return list(self._lifecycle.models.values())


def _kind(model: ServedModel) -> str | None:
    return model.kind.model_type if model.kind is not None else None


def _size(model: ServedModel) -> str | None:
    return model.kind.model_size if model.kind is not None else None


def _speakers(model: ServedModel) -> Collection[str]:
    return model.kind.speakers if model.kind is not None else ()


def _fits(voice: SavedVoice, model: ServedModel) -> bool:
    return _kind(model) == "base" and _size(model) == voice.words.model_size


def _described(model: ServedModel) -> str:
    kind = _kind(model)
    return shown(model.name) + (f" ({_CALLED.get(kind, kind)})" if kind is not None else "")
