"""The voices of one server: in memory for those who speak with them, on a disk for the next start."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InvalidValue, NoSuchVoice, NoVoiceDirectory, StorageFull, shown
from ..speech.request import VoicePrompt
from . import backup
from .files import VoiceFiles
from .saved import SavedVoice, clean_name


@dataclass(frozen=True)
class Imported:
    """What came of an import: ids that are new, and ids that were there before and stayed as they were."""

    added: tuple[str, ...]
    unchanged: tuple[str, ...]


class VoiceStore:
    """Saved voices. Every method may be called from any thread; reading never waits for a disk.

    ``directory`` None: there is no place to keep voices, and there are none. At most ``most_voices`` and ``most_bytes``
    are kept. ``on_removed`` hears of voices that shall be nowhere any more.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        most_voices: int,
        most_bytes: int,
        on_removed: Callable[[VoicePrompt], None] = lambda prompt: None,
    ) -> None:
        self._files = VoiceFiles(directory) if directory is not None else None
        self._most_voices, self._most_bytes = most_voices, most_bytes
        self._on_removed = on_removed
        self._writing = threading.Lock()
        # Replaced as a whole, so that readers need no lock.
        voices = self._files.read() if self._files is not None else []
        self._voices = {
            voice.words.id: voice
            for voice in sorted(voices, key=lambda voice: (voice.words.created, voice.words.id))
        }

    def all(self) -> list[SavedVoice]:
        """Every voice, the oldest first."""
        return list(self._voices.values())

    def get(self, voice_id: str) -> SavedVoice:
        """The voice of that id. Raises NoSuchVoice."""
        try:
            return self._voices[voice_id]
        except KeyError:
            raise NoSuchVoice(
                f"there is no saved voice {shown(voice_id)}: GET /v1/audio/voices lists them", param="id"
            ) from None

    def find(self, name: str) -> SavedVoice | None:
        """The voice of that id or name; None where there is none. Upper and lower case do not matter in names."""
        if (voice := self._voices.get(name)) is not None:
            return voice
        wanted = unicodedata.normalize("NFC", name).strip().casefold()
        return next((voice for voice in self.all() if voice.words.name.casefold() == wanted), None)

    def check_room(self, name: str) -> None:
        """Raise what :meth:`add` would raise for a voice of that name, as far as that is known without the voice."""
        self._require_files()
        self._check_name(name)
        self._check_count(1)

    def add(self, voice: SavedVoice) -> None:
        """Keep a voice. Raises InvalidValue (its name is taken), NoVoiceDirectory, StorageFull and StorageFault."""
        with self._writing:
            self._check_name(voice.words.name)
            self._keep([voice])

    def rename(self, voice_id: str, name: str) -> SavedVoice:
        """Give a voice another name. Raises NoSuchVoice, and what :meth:`add` does."""
        with self._writing:
            voice = self.get(voice_id)
            name = clean_name(name)
            self._check_name(name, but=voice_id)
            renamed = replace(voice, words=voice.words.model_copy(update={"name": name}))
            self._require_files().rewrite(renamed.words)
            self._voices = {**self._voices, voice_id: renamed}
            return renamed

    def remove(self, voice_id: str) -> None:
        """Remove a voice, everywhere. Raises NoSuchVoice and StorageFault."""
        with self._writing:
            voice = self.get(voice_id)
            self._require_files().remove(voice_id)
            self._voices = {key: kept for key, kept in self._voices.items() if key != voice_id}
        self._on_removed(voice.prompt)

    def exported(self) -> bytes:
        """All voices as one file."""
        return backup.write(self.all())

    def import_(self, content: bytes, check_name: Callable[[str], None]) -> Imported:
        """Keep the voices of such a file, all of them or none; those that are there already stay as they are.

        ``check_name`` raises InvalidValue for names that may not be taken. Also raises InvalidValue for what is no
        backup, NoVoiceDirectory, StorageFull and StorageFault.
        """
        voices = backup.read(content)
        with self._writing:
            new = [voice for voice in voices if voice.words.id not in self._voices]
            for voice in new:
                check_name(voice.words.name)
                self._check_name(voice.words.name)
            self._keep(new)
            unchanged = tuple(voice.words.id for voice in voices if voice not in new)
        return Imported(tuple(voice.words.id for voice in new), unchanged)

    def _keep(self, voices: list[SavedVoice]) -> None:
        files = self._require_files()
        self._check_count(len(voices))
        if voices:
            self._check_bytes(len(backup.write([*self.all(), *voices])))
            files.add(voices)
            self._voices = {**self._voices, **{voice.words.id: voice for voice in voices}}

    def _check_name(self, name: str, but: str | None = None) -> None:
        found = self.find(name)
        if found is not None and found.words.id != but:
            raise InvalidValue(
                f"`name` is {shown(name)}, which is the name of {found.words.id}: choose another one, or delete or "
                "rename that voice",
                param="name",
            )

    def _check_count(self, more: int) -> None:
        count = len(self._voices) + more
        if count > self._most_voices:
            raise StorageFull(
                f"there would be {count} saved voices, and at most {self._most_voices} are kept (`max_voices`): delete "
                "some first"
            )

    def _check_bytes(self, total: int) -> None:
        if total > self._most_bytes:
            raise StorageFull(
                f"a backup of the saved voices would have {total} bytes, and at most {self._most_bytes} are kept "
                "(`max_body_bytes`, so that it can be sent back): delete some first"
            )

    def _require_files(self) -> VoiceFiles:
        if self._files is None:
            raise NoVoiceDirectory(
                "this server has no place to keep voices: its operator names one in `voices_directory`; as a systemd "
                "unit with a state directory it has one"
            )
        return self._files
