"""What the operator meets: systemctl, the journal, a process that dies, and the unit's confinement."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable

from conftest import LONGEST_S, UNIT, Host, Service

#: systemd-analyze security, exposure level of the whole unit; 10 is unconfined.
HIGHEST_EXPOSURE = 1.3


def wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            if service.request("/ready").status == 200:
                return
        except OSError:
            pass  # nobody listens yet
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.2)


def test_the_unit_is_what_it_should_be(host: Host) -> None:
    shown = host.properties(
        "ActiveState", "SubState", "Type", "User", "UnitFileState", "NRestarts", "Restart", "WatchdogUSec"
    )
    assert shown == {
        "ActiveState": "active",
        "SubState": "running",
        "Type": "notify",
        "User": "qwen3-tts",
        "UnitFileState": "enabled",
        "NRestarts": "0",
        "Restart": "on-failure",
        "WatchdogUSec": "1min",
    }


def test_the_unit_is_confined(host: Host) -> None:
    report = host.run(f"systemd-analyze security --no-pager {UNIT}").stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found, report
    assert float(found[1]) <= HIGHEST_EXPOSURE, report


def test_the_process_is_unprivileged_and_cannot_see_secrets_of_others(host: Host) -> None:
    pid = host.properties("MainPID")["MainPID"]
    status = dict(
        line.split(":", 1) for line in host.run(f"cat /proc/{pid}/status").stdout.splitlines() if ":" in line
    )
    assert status["Uid"].split()[0] != "0"
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


def test_the_key_is_readable_by_root_only_and_not_in_the_process(host: Host, service: Service) -> None:
    modes = host.run("stat -c '%a %U %n' /etc/qwen3-tts/credentials/*").stdout.split("\n")
    assert all(line.startswith("600 root ") for line in modes if line), modes
    pid = host.properties("MainPID")["MainPID"]
    assert (
        service.key not in host.run(f"tr '\\0' '\\n' < /proc/{pid}/environ; cat /proc/{pid}/cmdline").stdout
    )
    # grep, not a copy here: exit status 1 means that no file on the host has the key in clear text
    assert (
        host.run(
            f"grep -rlF {service.key} /etc /var/lib /opt/qwen3-tts/releases/*/release.json", check=False
        ).stdout
        == ""
    )


def test_the_journal_has_priorities_and_the_readiness(host: Host) -> None:
    entries = [
        json.loads(line)
        for line in host.run(f"journalctl -u {UNIT} -b -o json --no-pager").stdout.splitlines()
    ]
    own = [entry for entry in entries if entry.get("_COMM", "").startswith(("qwen3-tts", "python"))]
    assert own, "the service itself wrote nothing"
    assert {entry["PRIORITY"] for entry in own} <= {"2", "3", "4", "5", "6", "7"}
    assert not any(re.match(r"<\d>", str(entry["MESSAGE"])) for entry in own), "a prefix was not understood"
    text = "\n".join(str(entry["MESSAGE"]) for entry in own)
    assert "cpu" in text
    assert service_errors(own) == []


def service_errors(entries: list[dict]) -> list[str]:
    """Messages of priority error and worse: a rollout that went well has none."""
    return [str(entry["MESSAGE"]) for entry in entries if int(entry["PRIORITY"]) <= 3]


def test_status_says_active_and_what_it_serves(host: Host) -> None:
    status = host.run(f"systemctl status --no-pager {UNIT}").stdout
    assert "active (running)" in status
    assert re.search(r"Status: \".+\"", status), status


def until(condition: Callable[[], bool], what: str) -> None:
    """A signal is answered soon, and not at once."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_reload_takes_the_keys_that_the_file_has_now(host: Host, service: Service) -> None:
    file, key = "/etc/qwen3-tts/credentials/main.keys", "guest-0123456789abcdef"
    before = host.properties("MainPID")
    host.run(f"cp -p {file} {file}.kept")
    try:
        digest = hashlib.sha256(key.encode()).hexdigest()
        host.run(f"echo 'guest sha256:{digest}' >> {file} && systemctl reload {UNIT}")
        until(lambda: service.request("/v1/models", key=key).status == 200, "the new key opens")
        host.run(f"echo 'no key at all' >> {file} && systemctl reload {UNIT}")
        broken = f"journalctl -u {UNIT} -b -o cat --no-pager | grep -c 'expected .NAME sha256'"
        until(lambda: host.run(broken, check=False).stdout.strip() not in ("", "0"), "the journal says why")
        assert service.request("/v1/models", key=key).status == 200, "the keys are kept"
    finally:
        host.run(f"mv {file}.kept {file} && systemctl reload {UNIT}")
    until(lambda: service.request("/v1/models", key=key).status == 401, "the key is gone")
    assert service.request("/v1/models").status == 200
    assert host.properties("MainPID") == before


def test_a_request_is_found_in_the_journal_by_its_fields(host: Host, service: Service) -> None:
    request_id = service.speak("Written down, but not this.", seed=11).headers["X-Request-Id"]
    find = f"journalctl -u {UNIT} REQUEST_ID={request_id} -o json --no-pager"
    until(lambda: bool(host.run(find).stdout), "the request's entry")
    [entry] = map(json.loads, host.run(find).stdout.splitlines())
    assert (entry["FINISH"], entry["CHARACTERS"]) == ("stop", "27")
    assert float(entry["AUDIO_S"]) > 0.3
    assert entry["KEY_NAME"] != "-"
    assert "TEXT" not in entry
    assert "Written down" not in json.dumps(entry)


def test_out_of_rotation_and_back(host: Host, service: Service) -> None:
    kill = f"systemctl kill --kill-whom=main -s %s {UNIT}"
    host.run(kill % "USR1")
    try:
        until(lambda: service.request("/ready").status == 503, "a balancer is told")
        assert service.request("/ready").json()["status"] == "draining"
        assert service.speak("Whoever comes is served.").status == 200
    finally:
        host.run(kill % "USR2")
    until(lambda: service.request("/ready").status == 200, "it is back")


def test_stop_start_restart(host: Host, service: Service) -> None:
    # These tests may be run again and again; systemd counts wanted starts too and refuses the sixth in ten minutes.
    host.run(f"systemctl reset-failed {UNIT}")
    host.run(f"systemctl stop {UNIT}")
    assert host.properties("ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    host.run(f"systemctl start {UNIT}")
    # Type=notify: start returns when the model has spoken, so there is nothing to wait for.
    assert service.request("/ready").status == 200
    before = host.properties("MainPID")
    host.run(f"systemctl restart {UNIT}")
    assert service.request("/ready").status == 200
    assert host.properties("MainPID") != before


def test_a_killed_process_comes_back(host: Host, service: Service) -> None:
    host.run(f"systemctl reset-failed {UNIT}")
    before = host.properties("MainPID", "NRestarts")
    host.run(f"kill -KILL {before['MainPID']}")
    deadline = time.monotonic() + LONGEST_S
    while host.properties("MainPID") in ({"MainPID": before["MainPID"]}, {"MainPID": "0"}):
        assert time.monotonic() < deadline, "no new process"
        time.sleep(0.2)
    wait_until_ready(service)
    after = host.properties("MainPID", "NRestarts", "ActiveState")
    assert after["ActiveState"] == "active"
    assert after["MainPID"] != before["MainPID"]
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    assert service.speak("Back again.").status == 200
