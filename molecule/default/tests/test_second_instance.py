"""A second instance with weights from a hub: its download, its separation from main, its gate, its repair."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from second import HUB_PORT, KEY, PORT, REPO, SETTINGS, TOKEN, UNIT, Second

from conftest import CHECKOUT, LONGEST_S, Answer, Host, Service

TESTS = Path(__file__).parent
DOWNLOAD = f"qwen3-tts-models@{REPO.replace('/', '--')}.service"
PLACEMENTS = "/var/lib/qwen3-tts/second/placement"
MIB = 1 << 20
CUT = 15 * MIB
GATE = "/root/hub/gate"
JOURNAL = f"journalctl -u {DOWNLOAD} -b -o cat --no-pager"
PROGRESS = re.compile(r"^ *[\d.]+ % +\d+ of \d+ MiB", re.MULTILINE)


def changed(output: str) -> int:
    found = re.findall(r"^\S+ +: ok=.* changed=(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found[-1])


def send(host: Host, content: str, target: str) -> None:
    """Write a file on the host, through the pipe so that nothing of it stands in a command line."""
    line = ["ssh", "-F", host.ssh_config, host.name, f"umask 077; cat > {target}"]
    subprocess.run(line, input=content, text=True, check=True, timeout=60)


@pytest.fixture(scope="module")
def second(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Second]:
    started = host.run("systemctl show -p ExecStart qwen3-tts.service").stdout
    release = re.search(r"path=(/opt/qwen3-tts/releases/[^/]+)/", started)
    assert release, started
    inventories = [f"--inventory={one}" for one in os.environ["RIG_INVENTORIES"].split(":")]
    yield Second(host, inventories, release[1], tmp_path_factory.mktemp("second"))
    host.run(f"systemctl disable --now {UNIT}; systemctl stop hub-stand-in", check=False)


@pytest.fixture(scope="module")
def hub_log(host: Host, second: Second) -> str:
    """A hub with a tiny checkpoint runs on the host's loopback; returns its log's path there."""
    python = f"{second.release}/venv/bin/qwen3-tts"
    host.run(f"mkdir -p /root/hub && {python} checkpoint synthetic /root/hub/files --geometry tiny --seed 9")
    send(host, (CHECKOUT / "tests/checkpoints/hub_stand_in.py").read_text(), "/root/hub/hub_stand_in.py")
    send(host, (TESTS / "hub_on_host.py").read_text(), "/root/hub/hub_on_host.py")
    configuration = {
        "repo": REPO,
        "directory": "/root/hub/files",
        "port": HUB_PORT,
        "token": TOKEN,
        "cut": {"model.safetensors": [CUT]},
        "gate": GATE,
        "log": "/root/hub/log.json",
    }
    send(host, json.dumps(configuration), "/root/hub/configuration.json")
    host.run(
        "systemd-run --unit hub-stand-in --collect /usr/bin/python3 -B /root/hub/hub_on_host.py "
        "/root/hub/configuration.json"
    )
    host.run(
        f"for i in $(seq 600); do (echo > /dev/tcp/127.0.0.1/{HUB_PORT}) 2>/dev/null && exit; sleep 0.1; done; "
        "journalctl -u hub-stand-in --no-pager >&2; exit 1"
    )
    return "/root/hub/log.json"


def where_the_token_is(host: Host) -> str:
    """Processes whose command line or environment holds the token, and the unit's properties that do."""
    search = (
        "grep -lF -f /root/hub/token /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; "
        f"systemctl show {DOWNLOAD} | grep -F -f /root/hub/token; systemctl cat {DOWNLOAD} | grep -F -f /root/hub/token"
    )
    return host.run(search, check=False).stdout


@dataclass(frozen=True)
class FirstRun:
    """What the play printed, and what the instance answered before its weights were there."""

    output: str
    ready: Answer
    refused: Answer


def until_it_tells_of_the_download(second: Second, deadline: float) -> Answer:
    """``/ready`` without a key, as soon as it has sizes."""
    while True:
        try:
            answer = second.service().request("/ready", key=None)
            if answer.json().get("download", {}).get("total_bytes"):
                return answer
        except OSError:
            pass  # nobody listens yet
        assert time.monotonic() < deadline, "the instance was not started before its weights"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def rolled_out(host: Host, second: Second, hub_log: str) -> FirstRun:
    """The first run of the second instance, observed while it downloads."""
    send(host, TOKEN, "/root/hub/token")
    process = second.start()
    # Until the gate is there the hub sends no large file, so the download stands still while it is looked at. That
    # its environment is found says two things: the process is past systemd's preparations, and the search works.
    running = f"grep -qaF HF_ENDPOINT /proc/$(systemctl show -P MainPID {DOWNLOAD})/environ 2>/dev/null"
    deadline = time.monotonic() + LONGEST_S
    while host.run(running, check=False).returncode:
        assert process.poll() is None, (
            f"the play ended without a download: {process.communicate()[0][-6000:]}"
        )
        assert time.monotonic() < deadline, "the download never ran"
        time.sleep(0.3)
    leaks = where_the_token_is(host)
    while not PROGRESS.search(host.run(JOURNAL).stdout):
        assert time.monotonic() < deadline, "no word of progress"
        time.sleep(0.3)
    ready = until_it_tells_of_the_download(second, deadline)
    refused = second.service().request("/v1/audio/speech", {"input": "Too early.", "voice": "x"})
    host.run(f"touch {GATE}")
    output, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, output[-6000:]
    assert leaks == ""
    return FirstRun(output, ready, refused)


def test_a_first_instance_tells_how_far_its_weights_are(host: Host, rolled_out: FirstRun) -> None:
    told = rolled_out.ready.json()
    assert (rolled_out.ready.status, told["status"]) == (503, "downloading")
    assert 0 <= told["download"]["bytes"] < told["download"]["total_bytes"]
    assert "/" not in told["reason"].replace("MiB/s", "")
    assert rolled_out.refused.status == 503
    assert rolled_out.refused.json()["error"]["code"] == "downloading"
    assert int(rolled_out.refused.headers["Retry-After"]) >= 5
    directory = "/run/qwen3-tts-models"
    modes = host.run(f"stat -c '%a %U' {directory} {directory}/{REPO.replace('/', '--')}.json").stdout
    assert modes.splitlines() == ["755 qwen3-tts", "640 qwen3-tts"]


def test_it_loaded_them_by_itself(host: Host, second: Second, rolled_out: FirstRun) -> None:
    lines = host.run(f"journalctl -u {UNIT} -b -o json --no-pager").stdout.splitlines()
    said = [(entry.get("_PID"), str(entry["MESSAGE"])) for entry in map(json.loads, lines)]
    waited = {pid for pid, message in said if ": waiting for weights: " in message}
    assert waited & {pid for pid, message in said if " is ready: " in message}
    # What has its weights asks no hub any more.
    assert "qwen3-tts-models" not in second.show("Wants")["Wants"]


def test_a_download_that_is_cut_resumes_and_tells_its_progress(
    host: Host, rolled_out: FirstRun, hub_log: str
) -> None:
    log = json.loads(host.run(f"cat {hub_log}").stdout)
    bodies = [body for body in log["bodies"] if body[0] == "model.safetensors"]
    assert [body[1] for body in bodies] == [0, 10 * MIB], "it began again instead of resuming"
    assert bodies[0][2] == CUT
    journal = host.run(JOURNAL).stdout
    assert "try 1 of 8 failed" in journal
    assert PROGRESS.search(journal), journal
    assert "complete and verified" in journal
    assert TOKEN not in journal


def test_the_record_keeps_the_commit_and_the_service_serves_it(
    host: Host, second: Second, rolled_out: FirstRun, hub_log: str
) -> None:
    commit = json.loads(host.run(f"cat {hub_log}").stdout)["commit"]
    record = host.run(f"cat /var/cache/qwen3-tts/huggingface/records/{REPO.replace('/', '--')}.json").stdout
    assert json.loads(record)["revision"] == commit
    assert f"/snapshots/{commit}" in host.run("cat /etc/qwen3-tts/second.toml").stdout
    assert second.service().request("/v1/models").json()["data"][0]["id"] == REPO.split("/")[1]


def test_placements_were_measured_under_the_confinement_and_set(
    host: Host, second: Second, rolled_out: FirstRun
) -> None:
    [file] = host.run(f"find {PLACEMENTS} -name '*.json*'").stdout.split()
    assert host.run(f"stat -c '%a %U' {file}").stdout.strip() == "600 qwen3-tts"
    answer = json.loads(host.run(f"cat {file}").stdout)
    assert [row["failure"] for row in answer["tables"][0]["rows"]] == [""] * 2, (
        "of the codec in fp32 and bf16"
    )
    lines = [line for line in answer["facts"]["settings"] if not line.startswith("#")]
    recommended = dict(line.removeprefix("QWEN3_TTS_").lower().split("=") for line in lines)
    settings = tomllib.loads(host.run("cat /etc/qwen3-tts/second.toml").stdout)
    assert settings.items() >= {**recommended, **SETTINGS}.items()
    assert {"device", "codec_device", "codec_dtype"} <= recommended.keys()
    assert "qwen3-tts-placement@second.service recommends" in rolled_out.output


def test_a_second_run_changes_nothing(second: Second, rolled_out: FirstRun) -> None:
    done = second.play()
    assert done.returncode == 0, done.stdout[-4000:]
    assert changed(done.stdout) == 0, done.stdout


def test_both_instances_speak_and_keep_apart(
    host: Host, second: Second, service: Service, rolled_out: FirstRun
) -> None:
    assert service.speak("Main.").status == 200
    assert second.service().speak("Second.").status == 200
    owned = host.run(
        "stat -c '%a %U %n' /var/lib/qwen3-tts/main /var/lib/qwen3-tts/second "
        "/var/cache/qwen3-tts/main /var/cache/qwen3-tts/second"
    ).stdout.splitlines()
    assert len(owned) == 4
    assert all(line.startswith("700 qwen3-tts ") for line in owned), owned
    pid = second.show("MainPID")["MainPID"]
    environment = host.run(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout
    assert "HOME=/var/lib/qwen3-tts/second" in environment
    assert "NUMBA_CACHE_DIR=/var/cache/qwen3-tts/second/numba" in environment
    assert "HF_HUB_OFFLINE=1" in environment
    # ProtectSystem=strict leaves an instance its own two directories: main's are read-only in this mount namespace.
    mounted = host.run(f"cat /proc/{pid}/mountinfo").stdout
    writable = {line.split()[4] for line in mounted.splitlines() if line.split()[5].startswith("rw")}
    assert {"/var/lib/qwen3-tts/second", "/var/cache/qwen3-tts/second"} <= writable
    assert not {one for one in writable if one.startswith("/var/") and one.endswith("/main")}


def test_keys_of_one_instance_open_only_that_one(
    host: Host, second: Second, service: Service, rolled_out: FirstRun
) -> None:
    assert second.service().request("/v1/models").status == 200
    assert second.service(service.key).request("/v1/models").status == 401
    assert second.service().request("/v1/models", key=None).status == 401
    assert service.request("/v1/models", key=KEY).status == 401
    file = "/etc/qwen3-tts/credentials/second.keys"
    assert host.run(f"stat -c '%a %U:%G' {file}").stdout.strip() == "600 root:root"
    denied = host.run(f"runuser -u qwen3-tts -- cat {file}", check=False)
    assert denied.returncode != 0
    assert "Permission denied" in denied.stderr


def test_the_second_unit_is_as_confined_and_says_its_status(
    host: Host, second: Second, rolled_out: FirstRun
) -> None:
    report = host.run(f"systemd-analyze security --no-pager {UNIT}").stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found, report
    assert float(found[1]) <= 1.3, report
    assert re.search(r'Status: ".+"', host.run(f"systemctl status --no-pager {UNIT}").stdout)


def test_a_measurement_that_fails_is_told_and_leaves_the_defaults(
    second: Second, rolled_out: FirstRun
) -> None:
    drop_in = "/etc/systemd/system/qwen3-tts-placement@second.service.d"
    second.host.run(f"mv {PLACEMENTS} /root/placement && mkdir {drop_in}")
    send(second.host, "[Service]\nExecStart=\nExecStart=/bin/false\n", f"{drop_in}/20-broken.conf")
    try:
        checked = second.play("molecule/default/tests/one_instance.yml", "--check")
        failed = second.play()
    finally:
        second.host.run(f"rm -r {drop_in} {PLACEMENTS} && mv /root/placement {PLACEMENTS}")
    assert checked.returncode == 0, checked.stdout[-4000:]
    assert "qwen3-tts-placement@second.service would measure" in checked.stdout
    assert changed(checked.stdout) > 0
    assert failed.returncode == 0, failed.stdout[-4000:]
    assert "qwen3-tts-placement@second.service failed (" in failed.stdout
    settings = tomllib.loads(second.host.run("cat /etc/qwen3-tts/second.toml").stdout)
    assert settings.items() >= SETTINGS.items()
    assert not {"codec_device", "codec_dtype"} & settings.keys()


def test_a_run_that_died_before_the_restart_is_completed_by_the_next(
    second: Second, rolled_out: FirstRun
) -> None:
    before = second.show("MainPID")["MainPID"]
    settings = {"tts_service_settings": {**SETTINGS, "max_input_chars": 150}}
    process = second.start(**settings)
    assert process.stdout is not None
    for line in process.stdout:
        # What this run changes is written by then. The handler is five tasks away: seconds, for the kill to arrive.
        if "TASK [tts_service : Install the unit]" in line:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait(LONGEST_S)
    process.stdout.close()
    assert "150" in second.host.run("grep max_input_chars /etc/qwen3-tts/second.toml").stdout
    assert second.show("MainPID")["MainPID"] == before, "the run was killed too late to prove anything"
    assert second.service().speak("x" * 151).status == 200
    done = second.play(**settings)
    assert done.returncode == 0, done.stdout[-4000:]
    assert second.show("MainPID")["MainPID"] != before
    assert second.service().speak("x" * 151).status == 400


def test_a_key_that_was_written_but_never_loaded_is_loaded_by_the_next_run(
    second: Second, rolled_out: FirstRun
) -> None:
    key = "another-0123456789abcdef"
    hashed = second.host.run(f"printf %s {key} | sha256sum").stdout.split()[0]
    send(second.host, f"second sha256:{hashed}\n", "/etc/qwen3-tts/credentials/second.keys")
    assert second.service(key).request("/v1/models").status == 401
    variables = {
        "tts_service_api_keys": [{"name": "second", "key": key}],
        "tts_service_settings": {**SETTINGS, "max_input_chars": 150},
    }
    done = second.play(**variables)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Store the API keys' hashes" in done.stdout
    assert second.service(key).request("/v1/models").status == 200
    assert second.service().request("/v1/models").status == 401


def test_settings_that_stop_the_service_fail_the_play_with_the_cause(
    second: Second, rolled_out: FirstRun
) -> None:
    # Other settings would be measured anew, with compiled frames.
    failed = second.play(tts_service_settings={"dtype": "fp64"}, tts_service_placement="settings")
    assert failed.returncode != 0
    message = failed.stdout[failed.stdout.index("The health gate of") :]
    assert f"The health gate of {UNIT}" in message
    assert "The unit is active" in message, "the check that failed"
    assert f"{UNIT} - Qwen3-TTS speech server (second" in message, "systemctl status"
    assert "The journal's tail" in message
    assert re.search("dtype.*fp64|fp64.*dtype", message), "the cause, in the service's own words"


def test_verify_names_the_unit_that_does_not_run(second: Second, rolled_out: FirstRun) -> None:
    second.host.run(f"systemctl stop {UNIT}")
    failed = second.play("playbooks/verify.yml")
    assert failed.returncode != 0
    assert re.search(r"FAILED  unit  [^|]*ActiveState=inactive", failed.stdout), failed.stdout[-3000:]
    assert UNIT in failed.stdout


def test_a_server_that_is_silent_fails_the_gate(second: Second, rolled_out: FirstRun) -> None:
    stub = "/var/cache/qwen3-tts/silent_server.py"
    send(second.host, (TESTS / "silent_server.py").read_text(), stub)
    drop_in = f"/etc/systemd/system/{UNIT}.d/20-silent.conf"
    # It says READY=1 once and nothing after it.
    unit = f"[Service]\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/python3 {stub} {PORT}\n"
    send(second.host, unit, drop_in)
    second.host.run(f"chmod 0644 {stub} {drop_in}")
    try:
        failed = second.play()
    finally:
        second.host.run(f"rm {stub} {drop_in}")
    assert failed.returncode != 0
    message = failed.stdout[failed.stdout.index("The health gate of") :]
    assert "plausible length and loudness" in message
    assert "dBFS" in message or "loud" in message, message


def test_a_normal_run_repairs_the_host(second: Second, rolled_out: FirstRun) -> None:
    done = second.play()
    assert done.returncode == 0, done.stdout[-4000:]
    assert second.service().speak("Repaired.").status == 200
    assert second.show("ActiveState", "NeedDaemonReload") == {
        "ActiveState": "active",
        "NeedDaemonReload": "no",
    }
    assert changed(second.play().stdout) == 0


def test_a_wrong_type_is_refused_with_the_variables_name(second: Second, rolled_out: FirstRun) -> None:
    failed = second.play(tts_service_port="abc")
    assert failed.returncode != 0
    assert "tts_service_port" in failed.stdout
    assert "'abc'" in failed.stdout
    assert second.service().request("/ready").status == 200
