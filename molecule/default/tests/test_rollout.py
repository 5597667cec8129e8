"""What the rollout promises: it says the truth, finds tampering, and leaves the rest of the host alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from conftest import Host

Playbook = Callable[..., subprocess.CompletedProcess[str]]

#: Directories whose mode and owner every program on the host relies on.
SYSTEM_DIRECTORIES = (
    "/",
    "/etc",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/var",
    "/var/lib",
    "/var/cache",
    "/opt",
    "/root",
    "/tmp",
)


def recap(output: str) -> dict[str, int]:
    """The counters of the last recap line."""
    lines = re.findall(r"^\S+ +: (ok=.*)$", output, re.MULTILINE)
    assert lines, output
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", lines[-1])}


def test_check_mode_after_the_rollout_reports_no_change(playbook: Playbook) -> None:
    done = playbook("site.yml", "--check", "--diff")
    assert done.returncode == 0, done.stdout[-4000:]
    assert recap(done.stdout)["changed"] == 0, done.stdout[-4000:]


def test_verify_playbook_passes_and_changes_nothing(playbook: Playbook) -> None:
    done = playbook("verify.yml")
    assert done.returncode == 0, done.stdout[-4000:]
    assert recap(done.stdout)["changed"] == 0


def test_verify_playbook_names_a_file_that_somebody_changed(host: Host, playbook: Playbook) -> None:
    release = re.search(r"path=(/opt/qwen3-tts/releases/[^/]+)/", host.properties("ExecStart")["ExecStart"])
    assert release
    found = host.run(f"ls {release[1]}/venv/lib/python3*/site-packages/transformers/loss/loss_utils.py")
    patched = found.stdout.strip()
    host.run(f"cp -p {patched} /root/untouched && echo '# tampered' >> {patched}")
    try:
        done = playbook("verify.yml")
    finally:
        host.run(f"cp -p /root/untouched {patched} && rm /root/untouched")
    assert done.returncode != 0
    assert "transformers/loss/loss_utils.py" in done.stdout
    assert playbook("verify.yml").returncode == 0


#: apt gives its download directories to its own user when it first uses them: archives with the first
#: package, lists with the first update, which the role asks for when the lists are old (prepare.yml ages them).
APT_OWN = ("/var/cache/apt/archives/partial", "/var/lib/apt/lists/partial")


def listed(text: str) -> dict[str, str]:
    """Path -> type, mode, owner and group; from find's ``%M %u:%g %p``."""
    return {
        path: f"{mode} {owner}" for mode, owner, path in (line.split(" ", 2) for line in text.splitlines())
    }


def test_what_was_there_keeps_its_mode_and_owner(host: Host) -> None:
    before = listed(Path(os.environ["RIG_FILES_BEFORE"]).read_text())
    after = listed(host.run(r'find / -xdev -ignore_readdir_race -printf "%M %u:%g %p\n"').stdout)
    assert set(SYSTEM_DIRECTORIES) <= set(before)
    changed = {path: (mode, after[path]) for path, mode in before.items() if after.get(path, mode) != mode}
    assert {path: modes for path, modes in changed.items() if path not in APT_OWN} == {}
    missing_directories = set(SYSTEM_DIRECTORIES) - set(after)
    assert not missing_directories


def test_nothing_new_is_writable_for_everybody(host: Host) -> None:
    found = host.run(
        "find /opt/qwen3-tts /etc/qwen3-tts /var/lib/qwen3-tts /var/cache/qwen3-tts -perm -o+w ! -type l"
    )
    assert found.stdout == ""


def test_the_service_user_owns_no_code(host: Host) -> None:
    assert host.run("find /opt/qwen3-tts -user qwen3-tts -print -quit").stdout == ""


def test_the_operator_has_the_command_its_manual_page_and_its_completion(host: Host) -> None:
    assert host.run("qwen3-tts --version").stdout.startswith("qwen3-tts")
    release = re.search(r"path=(/opt/qwen3-tts/releases/[^/]+)/", host.properties("ExecStart")["ExecStart"])
    assert release
    assert host.run("readlink /usr/local/bin/qwen3-tts").stdout.strip() == f"{release[1]}/venv/bin/qwen3-tts"
    assert host.run("cat /usr/local/share/man/man1/qwen3-tts.1").stdout == host.run("qwen3-tts man").stdout
    completed = (
        "source /usr/local/share/bash-completion/completions/qwen3-tts; COMP_WORDS=(qwen3-tts sa) COMP_CWORD=1; "
        '$(complete -p qwen3-tts | sed "s/.*-F //;s/ .*//") qwen3-tts; echo ${COMPREPLY[*]}'
    )
    assert host.run(f"bash -c '{completed}'").stdout.split() == ["say"]
