"""Write what looks like a checkpoint to whoever does not load it: configurations and a tensor of one byte."""

import json
import sys
from pathlib import Path

HEADER = json.dumps({"nothing": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + b"\0"

for directory in (Path(sys.argv[1]), Path(sys.argv[1], "speech_tokenizer")):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(SAFETENSORS)
