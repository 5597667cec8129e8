"""Weights from a hub: what an operator sees when the line breaks, the hub refuses or a file arrives wrong.

The command runs in a process of its own against a hub on loopback, because the hub library reads its
environment once, when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from qwen3_tts_service.checkpoints.download_progress import progress_line
from qwen3_tts_service.checkpoints.download_state import DownloadState, read_state
from qwen3_tts_service.checkpoints.verify import problems

from .hub_stand_in import Hub, Sent, serve

REPO = "Someone/Qwen3-TTS-Test"
MIB = 1 << 20
LIBRARY_BLOCK = 10 * MIB  # huggingface_hub writes blocks of this size; a cut loses less than one


def weights(mebibytes: int, seed: int) -> bytes:
    numbers = np.random.default_rng(seed).integers(0, 255, mebibytes * MIB, dtype=np.uint8)
    return save({"numbers": numbers})


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "qwen3_tts"}',
        "model.safetensors": weights(24, 1),
        "speech_tokenizer/config.json": b"{}",
        "speech_tokenizer/model.safetensors": weights(2, 2),
        "pytorch_model.bin": b"the same weights as a pickle",
    }


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(REPO, dict(files))
    stop = serve(hub)
    yield hub
    stop()


def environment(hub: Hub, **more: str) -> dict[str, str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("HF_", "QWEN3_TTS_")) and "proxy" not in k.lower()
    }
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "PYTHONPATH": str(Path(__file__).parents[2] / "service"),
        **more,
    }


def run(hub: Hub, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from qwen3_tts_service.cli import main; main()",
        "models",
        *map(str, arguments),
    ]
    return subprocess.run(
        command, env=environment(hub, **more), capture_output=True, text=True, check=False, timeout=120
    )


def pull(hub: Hub, cache: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run(hub, "pull", REPO, "--cache", cache, *arguments, **more)


def bodies(hub: Hub, name: str) -> list[Sent]:
    return [body for body in hub.bodies if body.name == name]


def test_the_commit_is_resolved_recorded_and_every_byte_is_right(hub: Hub, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    done = pull(hub, tmp_path / "hub", "--record", record, "--json")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["revision"] == hub.commit
    for name in ("config.json", "model.safetensors", "speech_tokenizer/model.safetensors"):
        assert (Path(last["path"]) / name).read_bytes() == hub.files[name]
    written = json.loads(record.read_text())
    assert {key: written[key] for key in ("repo", "revision", "path")} == last
    assert not (Path(last["path"]) / "pytorch_model.bin").exists(), "a pickle of the same weights was fetched"
    assert hub.authorizations == {None}


def told(file: Path) -> DownloadState:
    state = read_state(file)
    assert state is not None
    return state


def test_other_processes_are_told_that_it_is_complete(hub: Hub, tmp_path: Path) -> None:
    state, record = tmp_path / "state.json", tmp_path / "record.json"
    assert pull(hub, tmp_path / "hub", "--record", record, "--state", state).returncode == 0
    total = sum(json.loads(record.read_text())["files"].values())
    assert (told(state).state, told(state).done, told(state).total) == ("complete", total, total)


def test_other_processes_are_told_why_it_failed(hub: Hub, tmp_path: Path) -> None:
    hub.token, state = "hf_secret", tmp_path / "state.json"
    failed = pull(hub, tmp_path / "hub", "--state", state)
    assert told(state).state == "failed"
    assert told(state).error in failed.stderr
    assert "gated" in told(state).error
    nowhere = pull(hub, tmp_path / "hub", "--state", tmp_path / "nowhere" / "state.json")
    assert (nowhere.returncode, "nowhere" in nowhere.stderr) == (1, True)


def test_verify_afterwards_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    assert pull(hub, tmp_path / "hub", "--record", record).returncode == 0
    hub.requests.clear()
    verified = run(hub, "verify", "--record", record, HF_HUB_OFFLINE="1")
    assert verified.returncode == 0, verified.stderr
    assert hub.requests == []
    path = json.loads(record.read_text())["path"]
    told = run(hub, "verify", path, "--json", HF_HUB_OFFLINE="1")
    assert json.loads(told.stdout) == {"path": path, "complete": True, "problems": []}


def test_the_list_tells_what_is_complete(hub: Hub, tmp_path: Path) -> None:
    pulled = json.loads(pull(hub, tmp_path, "--json").stdout.splitlines()[-1])
    hub.requests.clear()
    (model,) = json.loads(run(hub, "list", "--cache", tmp_path, "--json").stdout)["models"]
    wanted = [name for name in hub.files if (Path(pulled["path"]) / name).exists()]
    size = sum(len(hub.files[name]) for name in wanted)
    assert model == {**pulled, "bytes": size, "complete": True, "problems": []}
    assert f"{pulled['repo']} at {pulled['revision']}" in run(hub, "list", "--cache", tmp_path).stdout
    (Path(pulled["path"]) / "model.safetensors").unlink()
    assert "model.safetensors is missing" in run(hub, "list", "--cache", tmp_path).stdout
    assert hub.requests == []
    nowhere = run(hub, "list", "--cache", tmp_path / "nowhere")
    assert (nowhere.returncode, "nowhere" in nowhere.stderr) == (1, True)


def test_a_cut_in_the_middle_resumes_with_a_range_within_the_same_call(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at["model.safetensors"] = [15 * MIB]
    done = pull(hub, tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    first, second = bodies(hub, "model.safetensors")
    assert (first.start, first.sent) == (0, 15 * MIB)
    assert second.start == LIBRARY_BLOCK, "the second try began again instead of resuming"
    assert second.sent == len(hub.files["model.safetensors"]) - LIBRARY_BLOCK
    assert "try 1 of 8 failed" in done.stdout


def test_a_call_that_gave_up_is_resumed_by_the_next_one(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at["model.safetensors"] = [15 * MIB]
    failed = pull(hub, tmp_path / "hub", "--attempts", "1", "--record", tmp_path / "record.json")
    assert failed.returncode == 1
    assert "what arrived is kept" in failed.stderr
    assert not (tmp_path / "record.json").exists()
    hub.bodies.clear()
    assert pull(hub, tmp_path / "hub").returncode == 0
    assert [body.start for body in bodies(hub, "model.safetensors")] == [LIBRARY_BLOCK]


def test_a_hub_that_is_away_for_a_moment_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.refused = 1
    done = pull(hub, tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    assert "next in 2 s" in done.stdout


def test_a_file_that_arrives_damaged_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.damaged["model.safetensors"] = 1
    done = pull(hub, tmp_path / "hub")
    assert done.returncode == 0, done.stderr
    assert "model.safetensors: fetched again" in done.stdout
    path = Path(done.stdout.splitlines()[-1])
    assert (path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_file_that_stays_damaged_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damaged["config.json"] = 100
    failed = pull(hub, tmp_path / "hub", "--record", tmp_path / "record.json")
    assert failed.returncode == 1
    assert "config.json" in failed.stderr
    assert "second download" in failed.stderr
    assert not (tmp_path / "record.json").exists()


def test_a_repository_that_is_no_speech_checkpoint_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.files["speech_tokenizer/model.safetensors"]
    failed = pull(hub, tmp_path / "hub")
    assert failed.returncode == 1
    assert "speech_tokenizer/model.safetensors is missing" in failed.stderr


def test_gated_without_a_token_says_so_at_once(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    failed = pull(hub, tmp_path / "hub")
    assert failed.returncode == 1
    assert "gated" in failed.stderr
    assert "tts_models_token" in failed.stderr
    assert "next in" not in failed.stdout, "a refusal is not cured by repeating"


def test_the_token_comes_from_the_credential(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "hub_token").write_text("hf_secret\n")
    done = pull(hub, tmp_path / "hub", CREDENTIALS_DIRECTORY=str(credentials))
    assert done.returncode == 0, done.stderr
    assert "hf_secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [("Someone/Else", "main", "no such repository"), (REPO, "no-such-branch", "no such revision")],
)
def test_what_does_not_exist_is_named(
    hub: Hub, tmp_path: Path, repo: str, revision: str, message: str
) -> None:
    failed = run(hub, "pull", repo, "--revision", revision, "--cache", tmp_path)
    assert failed.returncode == 1
    assert message in failed.stderr


def test_offline_is_refused_before_anything_is_asked(hub: Hub, tmp_path: Path) -> None:
    failed = pull(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert failed.returncode == 1
    assert "HF_HUB_OFFLINE" in failed.stderr
    assert hub.requests == []


def test_truncated_weights_are_found_from_the_files_alone(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert problems(tmp_path) == []
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.truncate(len(files["model.safetensors"]) - 1)
    assert [problem for problem in problems(tmp_path) if "model.safetensors is incomplete" in problem]
    (tmp_path / "config.json").write_text("{")
    assert [problem for problem in problems(tmp_path) if "config.json cannot be read" in problem]
    assert problems(tmp_path / "nowhere") == [
        f"{tmp_path / 'nowhere'} is no directory that this user can read"
    ]


def test_a_size_that_differs_from_the_record_is_found(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert problems(tmp_path, {"config.json": 5}) == [
        f"config.json has {len(files['config.json'])} bytes, 5 were downloaded"
    ]


def test_progress_says_share_size_rate_and_time() -> None:
    assert (
        progress_line(512 * MIB, 1024 * MIB, 8 * MIB)
        == " 50.0 %  512 of 1024 MiB, 8.0 MiB/s, 1 min 04 s left"
    )
    assert progress_line(512 * MIB, 1024 * MIB, 0).endswith("stalled")
    assert progress_line(512 * MIB, 1024 * MIB, 24_000).endswith("0.0 MiB/s, stalled")
    assert progress_line(0, 0, 0).startswith("100.0 %")
