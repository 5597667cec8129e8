#!/usr/bin/env python3
"""Write a small lock set for test hosts whose Python has no torch wheel here, out of the real service lock.

The set (default ``molecule/stand-in-lock``) has a runtime ``cpu`` of real small wheels, with their real hashes
and without torch and the model's libraries. A host rolled out with it (``tts_runtime_lock_directory``) has a
release, units and a command line; it can load no model. Its wheels: ``tools/wheels.py --locks
molecule/stand-in-lock --runtime cpu --python 3.13``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from locks import PYTHONS, ROOT, canonical, find, parse, render

DEFAULT = ROOT / "molecule" / "stand-in-lock"
WANTED = {
    *(
        "annotated-types",
        "av",
        "blinker",
        "cffi",
        "click",
        "deprecated",
        "flask",
        "itsdangerous",
        "jinja2",
        "limits",
        "markupsafe",
        "numpy",
        "packaging",
    ),
    *(
        "prometheus-client",
        "pycparser",
        "pydantic",
        "pydantic-core",
        "pydantic-settings",
        "python-dotenv",
        "safetensors",
        "sentencex",
        "soundfile",
        "soxr",
    ),
    *("typing-extensions", "typing-inspection", "waitress", "werkzeug", "wrapt"),
}
LEFT_OUT = "accelerate|einops|huggingface-hub|librosa|onnxruntime|qwen-tts|torch|torchaudio|transformers"
DESCRIPTION = {
    "groups": {"stand-in": {"index": "default"}},
    "runtimes": {
        "cpu": {
            "groups": ["stand-in"],
            "pythons": list(PYTHONS),
            "device_class": "cpu",
            "gfx_override": {},
            "optional_patches": ["torchaudio-soundfile", "transformers-vision"],
            "smoke_imports": ["av", "click", "flask", "numpy", "pydantic_settings", "soundfile", "waitress"],
            "pip_check_allowed": [rf"qwen3-tts-service \S+ requires ({LEFT_OUT}), which is not installed\."],
        }
    },
}
HEADER = "A stand-in: the service's small wheels without torch. Written by tools/stand_in_lock.py."


def files() -> dict[str, str]:
    """The set's files by name."""
    pins = parse(find("service").path.read_text(encoding="utf-8"), "service.txt")
    chosen = [pin for pin in pins if canonical(pin.name) in WANTED]
    missing = WANTED - {canonical(pin.name) for pin in chosen}
    if missing:
        raise ValueError(f"the service lock no longer has {', '.join(sorted(missing))}")
    return {
        "runtimes.json": json.dumps(DESCRIPTION, indent=2) + "\n",
        "stand-in.txt": render(chosen, HEADER),
    }


def main() -> int:
    """Write the set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (arguments.directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
