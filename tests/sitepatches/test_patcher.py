"""The patcher on real installed packages: exact or refused, atomic, reversible, finished after a crash."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3_tts_service.sitepatches import record
from qwen3_tts_service.sitepatches.patchset import load_patch_set

from .environments import SERVICE, Environment, copy_of, patcher

LOSS = "transformers/loss/loss_utils.py"
ADDED = "torchaudio/_soundfile_io.py"


def apply(environment: Environment, *more: str) -> dict:
    status, report, message = patcher("apply", "--python", str(environment.python), *more)
    assert status == 0, message
    return report


def refused(
    environment: Environment, *more: str, command: str = "apply", before: tuple[str, ...] = ()
) -> str:
    """The error message of a command that must fail, change nothing and leave nothing behind."""
    files = environment.files()
    status, report, message = patcher(command, "--python", str(environment.python), *more, before=before)
    assert status == 1
    assert report["ok"] is False
    assert report["error"]["message"] in message
    assert environment.files() == files
    assert environment.unfinished() == []
    return report["error"]["message"]


def dist_info(environment: Environment, name: str) -> Path:
    return next(environment.packages.glob(f"{name}-*.dist-info"))


def test_apply_is_idempotent_and_status_confirms_it(environment: Environment) -> None:
    assert patcher("status", "--python", str(environment.python))[0] == 3
    first = apply(environment)
    assert first["changed"]
    assert {patch["previous"] for patch in first["patches"]} == {"pristine"}
    files = environment.files()
    second = apply(environment)
    assert not second["changed"]
    assert environment.files() == files
    status, report, _ = patcher("status", "--python", str(environment.python))
    assert status == 0
    assert [patch["drift"] for patch in report["patches"]] == [[], []]


def test_check_mode_tells_what_apply_then_does(environment: Environment) -> None:
    files = environment.files()
    promised = apply(environment, "--check")
    assert environment.files() == files
    assert not (environment.prefix / "share").exists()
    done = apply(environment)
    assert promised["changed"]
    assert promised["patches"] == done["patches"]
    losses = next(file for patch in done["patches"] for file in patch["files"] if file["path"] == LOSS)
    assert "-from .loss_d_fine import DFineForObjectDetectionLoss\n" in losses["diff"]


def test_revert_is_byte_identical_and_leaves_no_copy(environment: Environment) -> None:
    pristine = environment.files()
    apply(environment)
    assert environment.files() != pristine
    status, report, message = patcher("revert", "--python", str(environment.python))
    assert status == 0, message
    assert report["changed"]
    assert environment.files() == pristine
    assert not list((environment.prefix / "share").rglob("*.py"))
    assert not patcher("revert", "--python", str(environment.python))[1]["changed"]


def test_hard_linked_cache_stays_clean(base: Environment, environment: Environment) -> None:
    pristine = base.files()
    assert (environment.packages / LOSS).samefile(base.packages / LOSS)
    apply(environment)
    assert not (environment.packages / LOSS).samefile(base.packages / LOSS)
    assert base.files() == pristine


def test_mode_is_kept_and_given_to_the_added_file(environment: Environment) -> None:
    for path in (LOSS, "torchaudio/__init__.py"):
        environment.overwrite(path, (environment.packages / path).read_bytes())
        (environment.packages / path).chmod(0o640)
    apply(environment)
    for path in (LOSS, "torchaudio/__init__.py", ADDED):
        assert stat.S_IMODE((environment.packages / path).stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_owner_is_kept(environment: Environment) -> None:
    environment.overwrite(LOSS, (environment.packages / LOSS).read_bytes())
    os.chown(environment.packages / LOSS, 65534, 65534)
    apply(environment)
    status = (environment.packages / LOSS).stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)


def test_stale_bytecode_is_dropped(environment: Environment) -> None:
    compiler = [environment.python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([*compiler, environment.packages / LOSS], check=True)
    compiled = list((environment.packages / "transformers/loss/__pycache__").glob("loss_utils.*.pyc"))
    assert compiled
    apply(environment)
    assert not any(path.exists() for path in compiled)


def test_record_stays_true_and_the_rest_of_it_untouched(environment: Environment) -> None:
    before = (dist_info(environment, "torchaudio") / "RECORD").read_text().splitlines()
    apply(environment)
    after = (dist_info(environment, "torchaudio") / "RECORD").read_text().splitlines()
    files = {file.path for patch in load_patch_set() for file in patch.variants[-1].files}
    assert [line for line in before if line.split(",")[0] not in files] == [
        line for line in after if line.split(",")[0] not in files
    ]
    assert sum(line.startswith(f"{ADDED},sha256=") for line in after) == 1
    assert record.scan(environment.packages, dist_info(environment, "torchaudio") / "RECORD") == []


def test_tampered_file_is_refused_with_both_hashes(environment: Environment) -> None:
    environment.overwrite(LOSS, (environment.packages / LOSS).read_bytes() + b"# local change\n")
    message = refused(environment)
    known = next(
        file for patch in load_patch_set() for v in patch.variants for file in v.files if file.path == LOSS
    )
    assert known.before is not None
    for expected in (LOSS, known.before, known.after, "--force-reinstall", "--known-hashes"):
        assert expected in message
    assert patcher("status", "--python", str(environment.python))[0] == 4


def test_change_after_patching_is_drift_and_not_reverted_over(environment: Environment) -> None:
    apply(environment)
    environment.overwrite(LOSS, b"LOSS_MAPPING = {}\n")
    status, report, _ = patcher("status", "--python", str(environment.python))
    assert status == 4
    drift = [drift for patch in report["patches"] for drift in patch["drift"]]
    assert [(entry["path"], entry["problem"]) for entry in drift] == [(LOSS, "changed")]
    assert "was changed since it was patched" in refused(environment, command="revert")


def test_drift_in_a_file_that_no_patch_touches(environment: Environment) -> None:
    apply(environment)
    (environment.packages / "torchaudio/version.py").unlink()
    status, report, _ = patcher("status", "--python", str(environment.python))
    assert status == 4
    drift = [drift for patch in report["patches"] for drift in patch["drift"]]
    assert [(entry["path"], entry["problem"]) for entry in drift] == [("torchaudio/version.py", "missing")]


@pytest.mark.parametrize(("version", "words"), [("4.58.0", ">=4.57.0,<4.58"), ("4.57.9", "patch lock")])
def test_wrong_version_is_refused(environment: Environment, version: str, words: str) -> None:
    metadata = dist_info(environment, "transformers") / "METADATA"
    text = metadata.read_text().replace("\nVersion: 4.57.3\n", f"\nVersion: {version}\n")
    metadata.unlink()
    metadata.write_text(text)
    message = refused(environment)
    assert version in message
    assert words in message


def test_missing_package_is_refused_unless_it_is_optional(environment: Environment) -> None:
    info = dist_info(environment, "torchaudio")
    info.rename(info.with_suffix(".gone"))
    message = refused(environment)
    assert "torchaudio is not installed" in message
    assert "--optional torchaudio-soundfile" in message
    report = apply(environment, "--optional", "torchaudio-soundfile")
    assert [patch["state"] for patch in report["patches"]] == ["absent", "applied"]
    assert patcher("status", "--python", str(environment.python))[0] == 3
    optional = ("--optional", "torchaudio-soundfile")
    assert patcher("status", "--python", str(environment.python), *optional)[0] == 0


def test_package_of_another_environment_is_refused(base: Environment, environment: Environment) -> None:
    """A .pth file makes the base's packages visible; patching them would change the base."""
    for entry in list(environment.packages.glob("torchaudio*")):
        subprocess.run(["rm", "-r", entry], check=True)
    (environment.packages / "other.pth").write_text(f"{base.packages}\n")
    for entry in list(environment.packages.glob("transformers*")):
        subprocess.run(["rm", "-r", entry], check=True)
    pristine = base.files()
    assert "outside of the environment" in refused(environment)
    assert base.files() == pristine


@pytest.mark.parametrize("folder", ["transformers/loss", "torchaudio", "dist-info"])
def test_read_only_folder_is_refused_before_anything_is_written(
    environment: Environment, folder: str
) -> None:
    path = dist_info(environment, "transformers") if folder == "dist-info" else environment.packages / folder
    # Root ignores modes; without its capabilities it does not.
    before = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()
    path.chmod(0o555)
    try:
        message = refused(environment, before=before)
    finally:
        path.chmod(0o755)
    assert f"{path} is not writable" in message
    assert apply(environment)["changed"]


KILLED = """
import os, pathlib, signal, sys
from qwen3_tts_service.sitepatches.command import main
original, name, when = pathlib.Path.replace, sys.argv[1], sys.argv[2]
def replace(self, target):
    if pathlib.Path(target).name == name and "site-packages" in str(target):
        if when == "after":
            original(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, target)
pathlib.Path.replace = replace
main(sys.argv[3:])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["_soundfile_io.py", "loss_utils.py", "RECORD"])
@pytest.mark.parametrize("then", ["apply", "revert"])
def test_killed_around_the_rename(environment: Environment, name: str, when: str, then: str) -> None:
    """SIGKILL between write and rename, and right after the rename: the next run finishes or undoes it."""
    pristine = environment.files()
    arguments = [name, when, "apply", "--python", str(environment.python)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        env={**os.environ, "PYTHONPATH": str(SERVICE)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(environment.unfinished()) == (when == "before")
    assert patcher("status", "--python", str(environment.python))[0] != 0

    status, _, message = patcher(then, "--python", str(environment.python))
    assert status == 0, message
    assert environment.unfinished() == []
    if then == "revert":
        assert environment.files() == pristine
    else:
        assert patcher("status", "--python", str(environment.python))[0] == 0


def test_other_patch_set_takes_over_from_the_earlier_one(
    environment: Environment, base: Environment, tmp_path: Path
) -> None:
    """A release of ours whose patch text differed is replaced from the pristine copies, not refused."""
    package = tmp_path / "earlier" / "qwen3_tts_service"
    package.parent.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", SERVICE / "qwen3_tts_service", package], check=True)
    data = package / "sitepatches/patches/transformers-vision.toml"
    text = data.read_text().replace("the vision losses are not imported.", "earlier wording.")
    assert text != data.read_text()
    data.write_text(text)
    earlier = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-m", "qwen3_tts_service.sitepatches"]
    wheelless = subprocess.run(
        [*command, "lock", "--python", environment.python, "--json"],
        env=earlier,
        capture_output=True,
        text=True,
    )
    # The earlier set's own hash comes out of its refusal.
    assert wheelless.returncode == 1
    old = next(f for p in load_patch_set() for v in p.variants for f in v.files if f.path == LOSS).after
    new = json.loads(wheelless.stdout)["error"]["message"].split("has sha256 ")[1][:64]
    data.write_text(text.replace(old, new))
    subprocess.run([*command, "apply", "--python", environment.python], env=earlier, check=True)
    assert b"earlier wording" in (environment.packages / LOSS).read_bytes()

    status, report, _ = patcher("status", "--python", str(environment.python))
    assert (status, report["patches"][1]["state"]) == (3, "superseded")
    assert apply(environment)["patches"][1]["previous"] == "superseded"
    assert b"earlier wording" not in (environment.packages / LOSS).read_bytes()
    assert patcher("revert", "--python", str(environment.python))[0] == 0
    assert environment.files() == base.files()


def test_lost_pristine_copies_are_named(environment: Environment) -> None:
    apply(environment)
    subprocess.run(["rm", "-r", environment.prefix / "share"], check=True)
    assert "its pristine copy is not in this environment" in refused(environment, command="revert")


def test_not_an_interpreter(tmp_path: Path) -> None:
    status, report, _ = patcher("status", "--python", str(tmp_path / "bin/python"))
    assert status == 1
    assert "does not answer as a Python interpreter" in report["error"]["message"]


def test_two_environments_at_once_do_not_share_state(base: Environment, tmp_path: Path) -> None:
    one, two = copy_of(base, tmp_path / "one"), copy_of(base, tmp_path / "two")
    apply(one)
    assert patcher("status", "--python", str(two.python))[0] == 3
