"""Weights from the model hub: resumable, retried, verified, and recorded so that a host stays as it is.

``huggingface_hub`` moves the bytes and keeps its own cache layout; here stands what a host wants around it:
a commit that is resolved once, lines of progress for a journal instead of a terminal's bar, back-off
between tries, and hashes compared with what the hub states.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from ..errors import CheckpointError, DownloadError
from .download_progress import MIB, Report, Telling, Wanted
from .download_state import write_whole
from .verify import digest_problem, problems

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

#: The same weights in other formats, some of them pickles that run code when opened; and papers' pictures.
IGNORED = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.gguf",
    "*.png",
    "*.jpg",
    "*.mp4",
)
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 120.0


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one commit; ``sha256`` for large files, git's ``blob_id`` for all."""

    name: str
    size: int  # bytes
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Pulled:
    """What a download put on this machine. ``files`` maps relative names to bytes."""

    repo: str
    revision: str  # the full commit
    path: str
    files: dict[str, int]


def read_record(file: Path) -> Pulled:
    """Read what an earlier download recorded; :class:`CheckpointError` when there is no such record."""
    try:
        return TypeAdapter(Pulled).validate_json(file.read_bytes(), strict=True)
    except FileNotFoundError:
        raise CheckpointError(f"nothing was downloaded yet: {file} does not exist", param=str(file)) from None
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"the record {file} cannot be read: {error}", param=str(file)) from error


def write_record(file: Path, pulled: Pulled) -> None:
    """Write the record, which is whole or not there."""
    write_whole(file, asdict(pulled))


def pull(
    repo: str,
    revision: str | None,
    cache: Path,
    telling: Telling,
    *,
    token: str | None = None,
    attempts: int = 8,
    first_pause_s: float = FIRST_PAUSE_S,
) -> Pulled:
    """Download one model repository into the hub cache ``cache`` and verify it.

    ``revision`` is a commit, tag or branch; None is the default branch. ``telling``, which has begun, hears how it
    goes. What arrived before a failure is kept
    and continued with a Range request, within this call ``attempts`` times and by the next call after that.
    Raises :class:`DownloadError` when the hub refuses or stays away, or when a file still differs from the
    hub's hash after it was fetched a second time.
    """
    report = telling.report
    commit, files = _retried(lambda: _resolve(repo, revision, token), attempts, first_pause_s, report)
    blobs = cache / f"models--{repo.replace('/', '--')}" / "blobs"
    wanted = Wanted(blobs, {file.sha256 or file.blob_id or "": (file.name, file.size) for file in files})
    report(f"{repo} at {commit}: {len(files)} files, {wanted.total / MIB:.0f} MiB")
    telling.fetching(wanted)
    path = _retried(lambda: _fetch(repo, commit, cache, token), attempts, first_pause_s, report)
    telling.verifying()
    for name in _differing(path, files, report):
        report(f"{name}: fetched again")
        again = partial(_fetch_again, repo, commit, cache, token, name)
        _retried(again, attempts, first_pause_s, report)
    if still := _differing(path, files, report):
        raise DownloadError(
            f"{', '.join(still)} of {repo} differ from the hub's hashes after a second download: "
            "a proxy or mirror in between changes them",
            param=repo,
        )
    pulled = Pulled(repo, commit, str(path), {file.name: file.size for file in files})
    if found := problems(path, pulled.files):
        raise DownloadError(f"{repo} at {commit} is no Qwen3-TTS checkpoint: {'; '.join(found)}", param=repo)
    report(f"{repo} at {commit}: complete and verified")
    return pulled


def _resolve(repo: str, revision: str | None, token: str | None) -> tuple[str, list[RemoteFile]]:
    """The commit that ``revision`` means now, and the files of it that we want."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils._paths import filter_repo_objects

    info: ModelInfo = HfApi(token=token).model_info(repo, revision=revision, files_metadata=True, timeout=30)
    wanted = filter_repo_objects(
        info.siblings or [], ignore_patterns=list(IGNORED), key=lambda sibling: sibling.rfilename
    )
    files = [
        RemoteFile(
            name=sibling.rfilename,
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            blob_id=sibling.blob_id,
        )
        for sibling in wanted
    ]
    if not info.sha or not files:
        raise DownloadError(f"the hub lists no commit or no files for {repo}", param=repo)
    return info.sha, files


def _fetch(repo: str, commit: str, cache: Path, token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    # Two at a time: one large file is most of it, and many small ones wait for each other's latency.
    return Path(
        snapshot_download(
            repo, revision=commit, cache_dir=cache, token=token, ignore_patterns=list(IGNORED), max_workers=2
        )
    )


def _fetch_again(repo: str, commit: str, cache: Path, token: str | None, name: str) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(repo, name, revision=commit, cache_dir=cache, token=token, force_download=True)


def _differing(path: Path, files: list[RemoteFile], report: Report) -> list[str]:
    """Names of the files that are not what the hub says."""
    differing = []
    for file in files:
        problem = digest_problem(
            path / file.name, sha256=file.sha256, blob_id=None if file.sha256 else file.blob_id
        )
        if problem:
            report(problem)
            differing.append(file.name)
    return differing


def _retried(step: Callable[[], Any], attempts: int, pause_s: float, report: Report) -> Any:
    """Run ``step`` until it succeeds; pauses double. What repeating cannot cure ends at once."""
    import requests
    from huggingface_hub import errors as hub

    for attempt in range(1, attempts + 1):
        try:
            return step()
        except hub.GatedRepoError as error:
            raise DownloadError(
                "the repository is gated: accept its terms on the hub and give a token (tts_models_token)"
            ) from error
        except hub.RevisionNotFoundError as error:
            raise DownloadError(f"no such revision: {_first_line(error)}") from error
        except hub.RepositoryNotFoundError as error:
            raise DownloadError(
                f"no such repository, or a private one and no token that may read it: {_first_line(error)}"
            ) from error
        # OSError covers a full disk and the hub library's own "consistency check failed" for a short file.
        except (requests.RequestException, hub.LocalEntryNotFoundError, OSError) as error:
            if isinstance(error, PermissionError) or attempt == attempts:
                raise DownloadError(
                    f"gave up after {attempt} tries, what arrived is kept: {_first_line(error)}"
                ) from error
            report(f"try {attempt} of {attempts} failed: {_first_line(error)}; next in {pause_s:.0f} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise AssertionError("attempts is at least 1")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
