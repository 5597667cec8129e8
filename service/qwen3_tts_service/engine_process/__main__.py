"""``python -m qwen3_tts_service.engine_process DESCRIPTOR``."""

from .child import main

if __name__ == "__main__":
    main()
