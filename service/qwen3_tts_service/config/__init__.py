"""The settings of one service process.

Every field comes from ``QWEN3_TTS_<FIELD>`` in the environment or from the TOML file that
``QWEN3_TTS_CONFIG`` names; the environment wins. An unknown key is an error: a misspelt setting that is
silently ignored is found months later.
"""

from .reading import load
from .settings import Settings

__all__ = ["Settings", "load"]
