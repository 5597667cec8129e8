"""The module that keeps a kernel argument, on fixture trees; GRUB's generator is played by a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loose_module import loose_module

MODULE = Path(__file__).resolve().parents[3] / "roles/amdgpu_kernel/library/kernel_argument.py"
kernel_argument = loose_module(MODULE)
ARGUMENT = kernel_argument.Argument("amdgpu.cwsr_enable", "0")

#: What Debian's grub-mkconfig does with the files: source the main one, then every drop-in in order.
GENERATE = r"""
. "$1/etc/default/grub"
for file in "$1"/etc/default/grub.d/*.cfg; do [ -e "$file" ] && . "$file"; done
cat > "$1/boot/grub/grub.cfg" <<END
### BEGIN /etc/grub.d/10_linux ###
menuentry 'Debian GNU/Linux' {
	linux	/boot/vmlinuz-6.1.0 root=UUID=1 ro $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT
}
submenu 'Advanced options' {
	menuentry 'recovery mode' {
		linux	/boot/vmlinuz-6.1.0 root=UUID=1 ro single $GRUB_CMDLINE_LINUX
	}
}
### END /etc/grub.d/10_linux ###
### BEGIN /etc/grub.d/20_memtest86+ ###
menuentry 'Memory test' {
	linux	/boot/memtest86+x64.bin console=ttyS0
}
### END /etc/grub.d/20_memtest86+ ###
END
"""


class Host:
    """A tree that looks like a Debian with GRUB."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commands: list[list[str]] = []
        for name in ("usr/sbin", "etc/default/grub.d", "etc/modprobe.d", "boot/grub", "proc"):
            (root / name).mkdir(parents=True)
        (root / "usr/sbin/update-grub").touch()
        (root / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n')
        (root / "etc/default/grub.d/50-cloudimg.cfg").write_text('GRUB_CMDLINE_LINUX="console=ttyS0"\n')
        self.generate()
        self.boot()

    def generate(self) -> None:
        subprocess.run(["sh", "-c", GENERATE, "sh", str(self.root)], check=True)

    def boot(self) -> None:
        """What a reboot does: the first entry's arguments become the running kernel's."""
        text = (self.root / "boot/grub/grub.cfg").read_text()
        entry = next(line for line in text.splitlines() if line.lstrip().startswith("linux"))
        (self.root / "proc/cmdline").write_text("BOOT_IMAGE=" + entry.split(None, 1)[1] + "\n")

    def parameter(self, value: str) -> None:
        directory = self.root / "sys/module/amdgpu/parameters"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cwsr_enable").write_text(value + "\n")

    def run(self, words: list[str]) -> tuple[int, str, str]:
        self.commands.append(words)
        self.generate()
        return 0, "", ""

    def ensure(self, state: str = "present", check_mode: bool = False) -> dict[str, object]:
        result: dict[str, object] = kernel_argument.ensure(self.root, ARGUMENT, state, check_mode, self.run)
        return result

    def tree(self) -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in self.root.rglob("*") if file.is_file()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_every_entry_gets_the_argument_and_the_running_kernel_does_not(host: Host) -> None:
    result = host.ensure()
    assert result["changed"]
    assert result["entries"] == [["0"], ["0"]]  # the memory test is not an entry of ours
    assert result["running"] == []
    assert result["reboot_required"]
    assert host.commands == [["update-grub"]]
    assert "console=ttyS0" in (host.root / "boot/grub/grub.cfg").read_text().splitlines()[2]


def test_a_second_run_changes_nothing_before_the_reboot(host: Host) -> None:
    host.ensure()
    result = host.ensure()
    assert not result["changed"]
    assert result["reboot_required"]
    assert host.commands == [["update-grub"]]


def test_a_second_run_changes_nothing_after_the_reboot(host: Host) -> None:
    host.ensure()
    host.boot()
    host.parameter("0")
    result = host.ensure()
    assert not result["changed"]
    assert not result["reboot_required"]
    assert result["running"] == ["0"]
    assert result["parameter"] == "0"


@pytest.mark.parametrize("state", ["present", "absent"])
def test_check_mode_tells_the_change_and_leaves_every_byte(host: Host, state: str) -> None:
    if state == "absent":
        host.ensure()
    before = host.tree()
    commands = len(host.commands)
    predicted = host.ensure(state, check_mode=True)
    assert host.tree() == before
    assert len(host.commands) == commands
    real = host.ensure(state)
    assert predicted["changed"] is real["changed"] is True
    assert predicted["diff"] == real["diff"]


def test_the_diff_is_what_was_written(host: Host) -> None:
    (change,) = host.ensure()["diff"]  # type: ignore[misc]
    assert change["before"] == ""
    assert change["after"] == Path(change["after_header"]).read_text()


def test_removal_brings_the_tree_back(host: Host) -> None:
    before = host.tree()
    host.ensure()
    host.boot()
    result = host.ensure("absent")
    assert result["changed"]
    assert result["reboot_required"]
    host.boot()
    assert host.tree() == before
    assert not host.ensure("absent")["changed"]
    assert not host.ensure("absent")["reboot_required"]


def test_a_generated_file_that_is_behind_is_generated_again(host: Host) -> None:
    host.ensure()
    before = (host.root / "boot/grub/grub.cfg").read_text()
    (host.root / "boot/grub/grub.cfg").write_text(before.replace(" amdgpu.cwsr_enable=0", ""))
    result = host.ensure()
    assert result["changed"]
    assert (host.root / "boot/grub/grub.cfg").read_text() == before


def test_a_later_file_that_assigns_is_found_by_reading_back_and_all_is_restored(host: Host) -> None:
    (host.root / "etc/default/grub.d/zz-vendor.cfg").write_text('GRUB_CMDLINE_LINUX="console=tty0"\n')
    host.generate()
    before = host.tree()
    with pytest.raises(kernel_argument.KernelArgumentError, match=r"2 of 2 entries.*sorts behind 99-amdgpu"):
        host.ensure()
    assert host.tree() == before


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("etc/default/grub", 'GRUB_CMDLINE_LINUX="amdgpu.cwsr_enable=1"'),
        ("etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT='quiet amdgpu.cwsr_enable=0'"),
        ("etc/default/grub.d/70-site.cfg", 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX amdgpu.cwsr-enable=0"'),
    ],
)
@pytest.mark.parametrize("check_mode", [True, False])
def test_the_argument_in_another_file_is_refused_by_name_and_line(
    host: Host, file: str, line: str, check_mode: bool
) -> None:
    (host.root / file).write_text(f"# amdgpu.cwsr_enable=7 in a comment counts for nothing\n{line}\n")
    before = host.tree()
    with pytest.raises(kernel_argument.KernelArgumentError, match=rf"{file} line 2 .*Nothing was changed"):
        host.ensure(check_mode=check_mode)
    assert host.tree() == before


def test_removal_leaves_what_others_set_and_says_where(host: Host) -> None:
    (host.root / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX_DEFAULT="amdgpu.cwsr_enable=0"\n')
    host.generate()
    host.boot()
    result = host.ensure("absent")
    assert not result["changed"]
    assert not result["reboot_required"]
    assert result["elsewhere"] == [{"file": str(host.root / "etc/default/grub"), "line": 1, "value": "0"}]


def test_a_conflict_in_modprobe_is_reported(host: Host) -> None:
    file = host.root / "etc/modprobe.d/gpu.conf"
    file.write_text("options ttm pages_limit=1\noptions amdgpu dc=1 cwsr_enable=1\n")
    assert host.ensure()["elsewhere"] == [{"file": str(file), "line": 2, "value": "1"}]


def test_twice_on_the_running_command_line_asks_for_a_reboot(host: Host) -> None:
    host.ensure()
    host.boot()
    running = host.root / "proc/cmdline"
    running.write_text(running.read_text().strip() + " amdgpu.cwsr_enable=0\n")
    assert host.ensure()["reboot_required"]


def test_without_grub_the_error_lists_what_was_looked_for(host: Host) -> None:
    (host.root / "usr/sbin/update-grub").unlink()
    with pytest.raises(kernel_argument.KernelArgumentError) as caught:
        host.ensure()
    message = str(caught.value)
    assert "/usr/sbin/update-grub (for grub, missing)" in message
    assert "/boot/grub/grub.cfg (for grub, found)" in message
    assert "amdgpu_kernel_manage: never" in message


def test_a_generator_that_fails_leaves_no_file(host: Host) -> None:
    def broken(_words: list[str]) -> tuple[int, str, str]:
        return 1, "", "no space left"

    before = host.tree()
    with pytest.raises(kernel_argument.KernelArgumentError, match="no space left"):
        kernel_argument.ensure(host.root, ARGUMENT, "present", False, broken)
    assert host.tree() == before


@pytest.mark.parametrize(("name", "value"), [("a.x; rm", "0"), ("a.x", '0"'), ("a.x", "$(id)"), ("", "0")])
def test_what_a_shell_would_interpret_is_refused(name: str, value: str) -> None:
    with pytest.raises(kernel_argument.KernelArgumentError):
        kernel_argument.Argument(name, value)


OTHER = st.from_regex(r"[a-z]{1,6}(\.[a-z_]{1,8})?(=[a-z0-9,:]{0,6})?", fullmatch=True)
SPELLINGS = ("amdgpu.cwsr_enable={}", "amdgpu.cwsr-enable={}", '"amdgpu.cwsr_enable={}"')
OURS = st.tuples(st.sampled_from(SPELLINGS), st.integers(0, 999).map(str))


@given(st.lists(st.one_of(OTHER, OURS)))
def test_the_values_are_found_among_any_other_arguments(words: list[str | tuple[str, str]]) -> None:
    line = " ".join(word if isinstance(word, str) else word[0].format(word[1]) for word in words)
    assert ARGUMENT.values_in(line) == [word[1] for word in words if not isinstance(word, str)]
