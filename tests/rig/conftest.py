"""The rig is run, not installed: ``molecule/`` and ``tools/`` go on the path as the Makefile puts them there."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
for directory in ("molecule", "tools"):
    sys.path.insert(0, str(CHECKOUT / directory))
