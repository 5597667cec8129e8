"""Write files that look like a checkpoint to whoever does not load it: configurations, and weights without tensors."""

import sys
from pathlib import Path

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"

for directory in (Path(sys.argv[1]), Path(sys.argv[1], "speech_tokenizer")):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(EMPTY_SAFETENSORS)
