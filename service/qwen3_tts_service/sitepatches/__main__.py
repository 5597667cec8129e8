"""``python -m qwen3_tts_service.sitepatches``."""

import sys

from .command import main

sys.exit(main())
