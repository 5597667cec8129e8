#!/usr/bin/python
"""Keep one kernel argument in the boot loader's own configuration, and prove that it landed."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENTATION = r"""
---
module: kernel_argument
short_description: Keep one kernel argument in the boot loader's configuration
description:
  - Writes the argument where the boot loader's generator reads it, has the configuration generated, and reads
    the generated configuration back for every boot entry.
  - Never reboots and never touches the running kernel; it says whether a reboot is due.
  - When the generated configuration is not what it should be, the previous state is restored before it fails.
options:
  name: {description: "The argument's name, e.g. V(amdgpu.cwsr_enable).", type: str, required: true}
  value: {description: The value it shall have., type: str, required: true}
  state: {description: Whether it shall be there., type: str, choices: [present, absent], default: present}
"""

RETURN = r"""
boot_loader: {description: The boot loader that was found, type: str, returned: always}
file: {description: The file that holds the argument, type: str, returned: always}
entries: {description: The argument's values in every generated boot entry, type: list, returned: always}
running: {description: The argument's values on the running command line, type: list, returned: always}
parameter: {description: The loaded module's parameter or none, type: str, returned: always}
reboot_required: {description: The running kernel is not as configured, type: bool, returned: always}
elsewhere: {description: Other places that set the argument, type: list, returned: always}
"""

NAME = re.compile(r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*")
VALUE = re.compile(r"[A-Za-z0-9_.,:/+-]+")


class KernelArgumentError(Exception):
    """What is wrong, where, and the way out."""


@dataclass(frozen=True)
class Argument:
    """``name=value`` as the kernel reads it."""

    name: str
    value: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise KernelArgumentError(f"name: {self.name!r} is no kernel argument's name")
        if not VALUE.fullmatch(self.value):
            raise KernelArgumentError(
                f"value: {self.value!r} holds characters that a boot loader would interpret"
            )

    def __str__(self) -> str:
        return f"{self.name}={self.value}"

    def values_in(self, command_line: str) -> list[str]:
        """Every value that ``command_line`` gives this argument, in order; the kernel takes the last one."""
        found = []
        for word in command_line.split():
            name, _equals, value = word.strip("\"'").partition("=")
            # To the kernel a dash and an underscore in a parameter's name are the same character.
            if name.replace("-", "_") == self.name.replace("-", "_"):
                found.append(value.strip("\"'"))
        return found


@dataclass(frozen=True)
class Change:
    """One file's content before and after; None is "no such file"."""

    path: Path
    before: str | None
    after: str | None


class WriteGate:
    """The only way to the host's state: in check mode it counts and does not write."""

    def __init__(self, check_mode: bool, run: Callable[[list[str]], tuple[int, str, str]]) -> None:
        self.check_mode = check_mode
        self.run = run
        self.changes: list[Change] = []
        self.commands: list[list[str]] = []

    @property
    def changed(self) -> bool:
        return bool(self.changes or self.commands)

    def write(self, path: Path, after: str | None) -> None:
        """Give ``path`` the text ``after``; None removes it."""
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before == after:
            return
        self.changes.append(Change(path, before, after))
        if not self.check_mode:
            self.put(path, after)

    def command(self, words: list[str]) -> None:
        """Run a command that changes the host."""
        self.commands.append(words)
        if not self.check_mode:
            self.execute(words)

    def execute(self, words: list[str]) -> None:
        status, output, error = self.run(words)
        if status:
            raise KernelArgumentError(f"{' '.join(words)} ended with {status}:\n{output}{error}")

    def restore(self) -> None:
        """Undo the files and run the same generators again; nothing half done stays behind."""
        for change in reversed(self.changes):
            self.put(change.path, change.before)
        for words in self.commands:
            self.execute(words)

    @staticmethod
    def put(path: Path, text: str | None) -> None:
        """Replace ``path`` by a new file in one step, on disk before it has the name."""
        if text is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=".ansible-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise


class Grub:
    """GRUB with Debian's generator, which reads every file of ``/etc/default/grub.d``."""

    name = "grub"
    #: grub-mkconfig of other distributions reads no directory of drop-ins, so update-grub is the mark.
    needs = ("usr/sbin/update-grub", "etc/default/grub", "boot/grub/grub.cfg")

    def __init__(self, root: Path, argument: Argument) -> None:
        self.root = root
        self.argument = argument
        stem = re.sub(r"[^A-Za-z0-9]+", "-", argument.name)
        # 99-: behind the files of cloud images, which assign the variable instead of appending to it.
        self.file = root / "etc/default/grub.d" / (f"99-{stem}.cfg")
        self.generated = root / "boot/grub/grub.cfg"

    def content(self) -> str:
        """The drop-in: it appends, so update-grub doubles nothing and recovery entries have it too."""
        return (
            "# Managed by Ansible, role amdgpu_kernel. update-grub reads this file; do not edit it here.\n"
            f'GRUB_CMDLINE_LINUX="${{GRUB_CMDLINE_LINUX:+$GRUB_CMDLINE_LINUX }}{self.argument}"\n'
        )

    def entries(self) -> list[str]:
        """The command line of every Linux entry that GRUB's own generator wrote, recovery entries too."""
        found, ours = [], False
        for line in self.generated.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("### BEGIN "):
                # Not the sections of memory tests or of other systems on the disk: those are not ours.
                ours = "/etc/grub.d/10_linux" in line
            match = re.match(r"\s*linux(?:16|efi)?\s+\S+\s*(.*)", line)
            if ours and match:
                found.append(match.group(1))
        return found

    def settings_elsewhere(self) -> Iterator[tuple[Path, int, str]]:
        """Lines of other files of GRUB's configuration that name the argument."""
        directory = self.root / "etc/default/grub.d"
        files = [self.root / "etc/default/grub", *sorted(directory.glob("*.cfg"))]
        for file in files:
            if file != self.file and file.exists():
                for number, line in numbered(file):
                    for value in self.argument.values_in(line.partition("=")[2].strip("\"'")):
                        yield file, number, value

    def apply(self, gate: WriteGate, state: str) -> None:
        """Bring drop-in and generated configuration to ``state``."""
        wanted = [self.argument.value] if state == "present" else []
        gate.write(self.file, self.content() if state == "present" else None)
        stale = any(self.argument.values_in(entry) != wanted for entry in self.entries())
        explained = state == "absent" and any(self.settings_elsewhere())
        if gate.changes or (stale and not explained):
            gate.command(["update-grub"])

    def verify(self, state: str) -> None:
        """Raise unless every generated entry is as ``state`` demands."""
        entries = self.entries()
        if not entries:
            raise KernelArgumentError(f"{self.generated} holds no Linux entry after update-grub")
        if state == "absent":
            return  # what other files still set is reported, and not ours to remove
        wrong = [entry for entry in entries if self.argument.values_in(entry) != [self.argument.value]]
        if wrong:
            raise KernelArgumentError(
                f"{len(wrong)} of {len(entries)} entries of {self.generated} do not hold {self.argument} "
                f"exactly once, e.g. {wrong[0]!r}. A file of /etc/default/grub.d that sorts behind "
                f"{self.file.name} probably assigns GRUB_CMDLINE_LINUX instead of appending to it: rename or "
                "correct it. The previous state was restored."
            )


#: In the order of detection. A further boot loader is a further class with Grub's methods.
BOOT_LOADERS = (Grub,)


def numbered(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a configuration file that are no comments, with their numbers."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def boot_loader(root: Path, argument: Argument) -> Grub:
    """The boot loader of the host under ``root``; raises with everything that was looked for."""
    for kind in BOOT_LOADERS:
        if all((root / need).exists() for need in kind.needs):
            return kind(root, argument)
    looked = [
        f"/{need} (for {kind.name}, {'found' if (root / need).exists() else 'missing'})"
        for kind in BOOT_LOADERS
        for need in kind.needs
    ]
    raise KernelArgumentError(
        f"no supported boot loader. Looked for: {', '.join(looked)}. Add {argument} to the kernel command "
        "line by hand, reboot, and set amdgpu_kernel_manage: never."
    )


def modprobe_settings(root: Path, argument: Argument) -> Iterator[tuple[Path, int, str]]:
    """Lines of modprobe's configuration that set the same module parameter."""
    module, _dot, parameter = argument.name.partition(".")
    for directory in ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d"):
        for file in sorted((root / directory).glob("*.conf")):
            for number, line in numbered(file):
                words = line.split()
                if words[:2] == ["options", module]:
                    for value in Argument(parameter, argument.value).values_in(" ".join(words[2:])):
                        yield file, number, value


def running_values(root: Path, argument: Argument) -> list[str]:
    """The argument's values on the running kernel's command line."""
    return argument.values_in((root / "proc/cmdline").read_text(encoding="utf-8"))


def module_parameter(root: Path, argument: Argument) -> str | None:
    """The parameter as the loaded module has it; None while the module is not loaded."""
    module, _dot, parameter = argument.name.partition(".")
    file = root / "sys/module" / module / "parameters" / parameter
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def difference(changes: list[Change]) -> list[dict[str, str]]:
    """Ansible's diff of the files that were, or in check mode would be, written."""
    return [
        {
            "before_header": str(change.path),
            "after_header": str(change.path),
            "before": change.before or "",
            "after": change.after or "",
        }
        for change in changes
    ]


def refuse_doubles(loader: Grub, argument: Argument) -> None:
    """Raise when another file of the boot loader sets the argument: it would be there twice."""
    doubles = [f"{file} line {number} (value {value})" for file, number, value in loader.settings_elsewhere()]
    if doubles:
        raise KernelArgumentError(
            f"{argument.name} is already set in {', '.join(doubles)}. Twice on one command line hides which "
            "one counts: remove it there, or set amdgpu_kernel_manage: never. Nothing was changed."
        )


def ensure(
    root: Path,
    argument: Argument,
    state: str,
    check_mode: bool,
    run: Callable[[list[str]], tuple[int, str, str]],
) -> dict[str, object]:
    """Do the module's work under ``root`` and return its result."""
    loader = boot_loader(root, argument)
    if state == "present":
        refuse_doubles(loader, argument)
    gate = WriteGate(check_mode, run)
    try:
        loader.apply(gate, state)
        if not check_mode:
            loader.verify(state)
    except KernelArgumentError:
        if not check_mode:
            gate.restore()
        raise
    entries = [argument.values_in(entry) for entry in loader.entries()]
    running = running_values(root, argument)
    if state == "present":
        expected = [argument.value]
    else:
        expected = [value for _file, _number, value in loader.settings_elsewhere()]
    return {
        "changed": gate.changed,
        "boot_loader": loader.name,
        "file": str(loader.file),
        "entries": entries,
        "running": running,
        "parameter": module_parameter(root, argument),
        "reboot_required": running != expected,
        "elsewhere": [
            {"file": str(file), "line": number, "value": value}
            for file, number, value in (*loader.settings_elsewhere(), *modprobe_settings(root, argument))
        ],
        "diff": difference(gate.changes),
    }


def main() -> None:
    """Ansible's entry point."""
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "value": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    try:
        argument = Argument(module.params["name"], module.params["value"])
        result = ensure(Path("/"), argument, state, module.check_mode, module.run_command)
    except KernelArgumentError as error:
        module.fail_json(msg=str(error))
    for place in result["elsewhere"]:
        if state == "absent" or place["value"] != argument.value:
            module.warn(
                f"{place['file']} line {place['line']} sets the value {place['value']}; where both "
                "say something, the kernel's command line wins over modprobe.d"
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
