"""Names that clients know from elsewhere, such as OpenAI's, for what is served here. A name of ours always wins."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..config import Settings


class Aliases:
    """The settings' aliases of models and voices."""

    def __init__(self, settings: Settings) -> None:
        self._models = settings.models_by_alias
        self._voices = settings.voices_by_alias

    def model(self, name: str | None, models: Collection[str]) -> str | None:
        """What ``name`` means among ``models``; itself where it is no alias. None: whichever suits the request."""
        if name is None or name in models:
            return name
        return self._models.get(name, name)

    def voice(self, name: str | None, speakers: Collection[str]) -> str | None:
        """What ``name`` means among ``speakers``; itself where it is no alias of one of them."""
        if name is None or name.lower() in speakers:
            return name
        wanted = self._voices.get(name.lower())
        return wanted if wanted in speakers else name

    def voices(self, speakers: Collection[str]) -> Mapping[str, str]:
        """The aliases that mean something among ``speakers``, and what."""
        return {
            alias: speaker
            for alias, speaker in self._voices.items()
            if speaker in speakers and alias not in speakers
        }
