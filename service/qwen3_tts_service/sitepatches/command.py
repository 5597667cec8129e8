"""The command line of the patcher: ``python -m qwen3_tts_service.sitepatches``, standard library only.

It runs from any Python 3.11 or newer, from outside the environment that it patches, also straight from the
wheel on PYTHONPATH. Exit status: 0 done and as it should be; 1 refused; 2 wrong usage; 3 (``status``) not
every patch is applied; 4 (``status``) a file is not what RECORD or the patch set says.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import PatchError
from .lock import LockRecord, lock_environment, lock_wheel
from .patcher import PatchResult, Report, apply, revert, status
from .patchset import digest, load_known_hashes
from .plan import State

NOT_APPLIED = 3
DRIFTED = 4


def main(arguments: Sequence[str] | None = None, *, program: str | None = None) -> int:
    """Run one command and return the exit status."""
    options = _parser(program).parse_args(arguments)
    try:
        status_code: int = options.run(options)
    except PatchError as error:
        if options.json:
            failure = {"message": error.message, "code": error.code, "param": error.param}
            _print_json({"command": options.command, "ok": False, "changed": False, "error": failure})
        sys.stderr.write(f"qwen3-tts patch: {error.message}\n")
        return 1
    return status_code


def _parser(program: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program or "python -m qwen3_tts_service.sitepatches",
        description="Apply, revert and verify the on-disk patches of a Python environment.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    texts = {
        "apply": "patch the environment; running it again changes nothing",
        "revert": "put every patched file back, byte for byte",
        "status": "say what is patched and whether any file of the patched distributions has changed since",
        "lock": "print the hashes before and after, and the difference, for wheels that the patch set does "
        "not know",
        "digest": "print the sha256 of the patch set",
    }
    sub = {name: commands.add_parser(name, help=text, description=text) for name, text in texts.items()}
    for name in ("apply", "revert", "status"):
        sub[name].add_argument("--python", type=Path, required=True, help="bin/python of the environment")
    for name in ("apply", "revert"):
        sub[name].add_argument("--check", action="store_true", help="only say what would change")
    for name in ("apply", "status", "digest"):
        sub[name].add_argument(
            "--known-hashes", type=Path, metavar="FILE", help="records that `lock --json` printed"
        )
    for name in ("apply", "status"):
        sub[name].add_argument(
            "--optional",
            action="append",
            default=[],
            metavar="PATCH",
            help="this patch's distribution may be absent",
        )
    sub["lock"].add_argument("wheels", nargs="*", type=Path, metavar="WHEEL")
    sub["lock"].add_argument("--python", type=Path, help="look at what is installed there instead")
    for command in sub.values():
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    sub["apply"].set_defaults(run=_apply)
    sub["revert"].set_defaults(run=_revert)
    sub["status"].set_defaults(run=_status)
    sub["lock"].set_defaults(run=_lock)
    sub["digest"].set_defaults(run=_digest)
    return parser


def _apply(options: argparse.Namespace) -> int:
    known = load_known_hashes(options.known_hashes)
    report = apply(options.python, known=known, optional=options.optional, check=options.check)
    _print_report(options, report, ok=True, digest_of=digest(known))
    return 0


def _revert(options: argparse.Namespace) -> int:
    _print_report(options, revert(options.python, check=options.check), ok=True, digest_of=digest())
    return 0


def _status(options: argparse.Namespace) -> int:
    known = load_known_hashes(options.known_hashes)
    report = status(options.python, known=known)
    code = 0
    for patch in report.patches:
        if patch.drift or patch.state is State.UNKNOWN:
            code = DRIFTED
        elif patch.state is not State.APPLIED and not (
            patch.state is State.ABSENT and patch.name in options.optional
        ):
            code = code or NOT_APPLIED
    _print_report(options, report, ok=code == 0, digest_of=digest(known))
    return code


def _lock(options: argparse.Namespace) -> int:
    if bool(options.wheels) == bool(options.python):
        raise PatchError("name either wheel files or --python", param="wheels")
    records: list[LockRecord] = []
    if options.python:
        records = lock_environment(options.python)
    for wheel in options.wheels:
        records += lock_wheel(wheel)
    if options.json:
        _print_json({"command": "lock", "ok": True, "records": [asdict(record) for record in records]})
        return 0
    for record in records:
        sys.stdout.write(
            f"{record.patch}: {record.distribution} {record.version}, variant {record.variant}\n"
        )
        for file in record.files:
            word = "known to the patch set" if file.known else "new, review the difference"
            sys.stdout.write(f"  {file.path} ({word})\n    before {file.before}\n    after  {file.after}\n")
            if not file.known:
                sys.stdout.write(file.diff)
    return 0


def _digest(options: argparse.Namespace) -> int:
    value = digest(load_known_hashes(options.known_hashes))
    if options.json:
        _print_json({"command": "digest", "ok": True, "digest": value})
    else:
        sys.stdout.write(f"{value}\n")
    return 0


def _print_report(options: argparse.Namespace, report: Report, *, ok: bool, digest_of: str) -> None:
    if options.json:
        data: dict[str, Any] = {
            "command": options.command,
            "ok": ok,
            "check": bool(getattr(options, "check", False)),
            "digest": digest_of,
        }
        _print_json(data | asdict(report))
        return
    for patch in report.patches:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(options, patch)))


def _lines(options: argparse.Namespace, patch: PatchResult) -> list[str]:
    verb = "would change" if getattr(options, "check", False) else "changed"
    state = patch.state.value
    if patch.changed:
        state = f"{patch.previous.value} -> {state} ({verb})"
    lines = [f"{patch.name}: {patch.distribution} {patch.version or '-'}: {state}"]
    if patch.message:
        lines.append(f"  {patch.message}")
    lines += [f"  {verb} {file.path}" for file in patch.files if file.changed]
    lines += [f"  {drift.path} is {drift.problem}, RECORD says {drift.expected}" for drift in patch.drift]
    return lines


def _print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, default=str) + "\n")
