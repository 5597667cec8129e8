#!/usr/bin/env python3
"""Complete a lock on the operator's side: hash the wheels of one runtime that the repository could not reach.

``playbooks/lock.yml`` runs this. For every requirement of the runtime without a hash for the given Python it
downloads exactly that version from the one index of its group, takes the sha256, and asks the patcher for the
hashes of the files to patch, before and after, in these very wheels: an anchor that does not match ends the
run, and the difference is printed for review. The result is merged into a YAML file (written as JSON, which
YAML reads) with the variable ``tts_runtime_lock_completions``, meant to stand in the inventory under version
control. Hosts are verified against it; nothing is trusted a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pip_sources
from lock import hash_of
from locks import ROOT, RUNTIME_LOCKS, fits, parse, plan
from wheels import NEWEST_GLIBC

Mirrors = dict[str, dict[str, str]]
VARIABLE = "tts_runtime_lock_completions"
HEADER = (
    "# Written by playbooks/lock.yml: sha256 of wheels and of patched files, taken on the operator's side.\n"
)


def read(path: Path) -> dict[str, Any]:
    """The completions that the file holds so far."""
    if not path.is_file():
        return {}
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#")
    try:
        held: dict[str, Any] = json.loads(text.removeprefix("---").strip())[VARIABLE]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} was not written by playbooks/lock.yml; move it away or name another file"
        ) from None
    return held


def download(runtime: str, python: str, locks: Path, mirrors: Mirrors, folder: Path) -> list[Path]:
    """The missing wheels of the runtime, each group from its one index."""
    planned = plan(str(locks), runtime, python, NEWEST_GLIBC, {})
    if python not in planned["supported"]:
        raise ValueError(
            f"the runtime {runtime} is for Python {', '.join(planned['supported'])}, not {python}"
        )
    for group in planned["groups"]:
        missing = [pin for pin in parse(group["lock"], group["name"]) if not pin.wheels]
        for pin in missing:
            print(f"{pin.name}=={pin.version} from the index {group['index']}", flush=True)
        if missing:
            pip_sources.pip(
                "download",
                "--quiet",
                f"--dest={folder}",
                *pip_sources.target_arguments(python),
                *pip_sources.index_arguments(group["index"], mirrors),
                *(f"{pin.name}=={pin.version}" for pin in missing),
            )
    return sorted(folder.glob("*.whl"))


def patch_records(wheels: list[Path]) -> list[dict[str, Any]]:
    """The patcher's records for those of the wheels that it patches; prints the difference for a person."""
    if not wheels:
        return []
    command = [sys.executable, "-m", "qwen3_tts_service.sitepatches", "lock", *map(str, wheels)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    for form in ([], ["--json"]):
        result = subprocess.run(
            [*command, *form], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise ValueError(
                f"the patches do not fit these wheels: {result.stderr.strip() or result.stdout.strip()}"
            )
        if not form:
            print(result.stdout, flush=True)
    records: list[dict[str, Any]] = json.loads(result.stdout)["records"]
    for record in records:
        for file in record["files"]:
            file.pop("diff", None)
    return records


def merge(
    held: dict[str, Any], runtime: str, wheels: dict[str, str], records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Add what was found; a wheel whose hash changed since is refused, not replaced."""
    entry = held.get(runtime, {"wheels": {}, "patches": []})
    for file, digest in wheels.items():
        if entry["wheels"].get(file, digest) != digest:
            raise ValueError(
                f"{file}: recorded before with sha256 {entry['wheels'][file]}, the index gives {digest} now. "
                "A published wheel does not change: find out why before you remove the old record"
            )
    key = {(record["patch"], record["version"]): record for record in [*entry["patches"], *records]}
    patches = [key[one] for one in sorted(key)]
    return {
        **held,
        runtime: {"wheels": dict(sorted({**entry["wheels"], **wheels}.items())), "patches": patches},
    }


def complete(runtime: str, python: str, output: Path, locks: Path, mirrors: Mirrors, scratch: Path) -> bool:
    """Do the whole job; return True when the file changed."""
    held = read(output)
    done = held.get(runtime, {}).get("wheels", {})
    if not plan(str(locks), runtime, python, NEWEST_GLIBC, held)["incomplete"]:
        return False
    wheels = download(runtime, python, locks, mirrors, scratch)
    foreign = [wheel.name for wheel in wheels if not fits(wheel.name, python, NEWEST_GLIBC)]
    if foreign:
        raise ValueError(f"the index gave wheels that Python {python} cannot install: {', '.join(foreign)}")
    hashes = {wheel.name: hash_of(wheel) for wheel in wheels}
    merged = merge(held, runtime, {**done, **hashes}, patch_records(wheels))
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.new")
    fresh.write_text(f"---\n{HEADER}{json.dumps({VARIABLE: merged}, indent=2)}\n", encoding="utf-8")
    fresh.replace(output)
    return True


def main() -> int:
    """Complete one runtime's lock for one Python version."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--python", required=True, help="Python version of the hosts, for instance 3.12")
    parser.add_argument("--output", required=True, type=Path, help="file in the inventory")
    parser.add_argument("--locks", type=Path, default=RUNTIME_LOCKS, help="another set of runtime locks")
    parser.add_argument("--indexes", type=json.loads, default={}, help="tts_runtime_indexes as JSON")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
            changed = complete(
                arguments.runtime,
                arguments.python,
                arguments.output,
                arguments.locks,
                arguments.indexes,
                Path(scratch),
            )
    except (pip_sources.SourceError, ValueError, OSError) as problem:
        print(f"lock: {problem}", file=sys.stderr)
        return 1
    print("written" if changed else "complete already", arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
