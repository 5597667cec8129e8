"""What a test needs of the host that it runs on."""

from __future__ import annotations

import shutil

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this host")
