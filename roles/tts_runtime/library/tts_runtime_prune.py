#!/usr/bin/python
"""Ansible module: remove releases that nothing needs any more."""

from __future__ import annotations

import shutil
from pathlib import Path

DOCUMENTATION = r"""
module: tts_runtime_prune
short_description: Removes old releases of the service
description:
  - Keeps the current release and the newest finished ones beside it, O(keep) in all.
  - Never removes a release that a unit file names or that a running process was started from.
  - Removes unfinished releases (without C(release.json)) other than the current one.
options:
  directory: {description: Folder of the releases., type: path, required: true}
  current: {description: Name of the release that stays whatever its age., type: str, required: true}
  keep: {description: How many finished releases stay., type: int, required: true}
  units:
    description: Folder whose unit files and drop-ins may name a release.
    type: path
    default: /etc/systemd/system
  processes: {description: The kernel's process folder., type: path, default: /proc}
author: The Qwen3-TTS service authors
"""

EXAMPLES = r"""
- tts_runtime_prune: {directory: /opt/qwen3-tts/releases, current: 0123456789abcdef, keep: 2}
"""

RETURN = r"""
removed: {description: Names of the removed releases., type: list, returned: always}
in_use: {description: Names of releases kept because something uses them., type: list, returned: always}
"""


def named_by_units(units: Path) -> str:
    """The text of every unit file and drop-in, which is where a release would be named."""
    texts = []
    for pattern in ("*.service", "*.service.d/*.conf"):
        for path in sorted(units.glob(pattern)):
            if path.is_file():
                texts.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(texts)


def named_by_processes(processes: Path) -> str:
    """The command lines of all processes; the interpreter's own path is the system's, the script's is not."""
    texts = []
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            texts.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # the process ended while we looked
            continue
    return "\n".join(texts)


def choose(directory: Path, current: str, keep: int, mentioned: str) -> tuple[list[Path], list[str]]:
    """Which releases to remove, and which old ones stay only because something names them."""
    if not directory.is_dir():
        return [], []
    others = [path for path in directory.iterdir() if path.is_dir() and path.name != current]
    in_use = sorted(path.name for path in others if f"{path}/" in mentioned)
    finished = [path for path in others if (path / "release.json").is_file()]
    finished.sort(key=lambda path: (path / "release.json").stat().st_mtime, reverse=True)
    kept = {path.name for path in finished[: max(keep - 1, 0)]} | set(in_use)
    return sorted(path for path in others if path.name not in kept), in_use


def main() -> None:
    """Run the module."""
    # Imported here so that the choice above is tested where no Ansible is installed.
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "current": {"type": "str", "required": True},
            "keep": {"type": "int", "required": True},
            "units": {"type": "path", "default": "/etc/systemd/system"},
            "processes": {"type": "path", "default": "/proc"},
        },
        supports_check_mode=True,
    )
    given = module.params
    mentioned = named_by_units(Path(given["units"])) + "\n" + named_by_processes(Path(given["processes"]))
    removed, in_use = choose(Path(given["directory"]), given["current"], given["keep"], mentioned)
    if not module.check_mode:
        for path in removed:
            # The marker goes first: a half-removed release must not look finished.
            (path / "release.json").unlink(missing_ok=True)
            shutil.rmtree(path)
    module.exit_json(changed=bool(removed), removed=[path.name for path in removed], in_use=in_use)


if __name__ == "__main__":
    main()
