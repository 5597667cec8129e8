"""The typed error family of the whole package.

Every error that a person can meet names what was wrong, the value, the limit and the way out. No class
here knows HTTP: ``api/`` maps the families to status codes in one place, the command line maps them to
exit codes. This module imports nothing of the package, so that every layer can raise and catch from it.
"""

from __future__ import annotations

import re
from typing import Any

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """``value`` as messages quote it: its repr, cut after 60 characters, since clients send anything."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


class TTSError(Exception):
    """Root of the family.

    ``message`` is one sentence for a person; ``param`` names the field, option or file that was wrong;
    ``code`` is a stable word for machines.
    """

    code = "error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        # By itself an exception is copied, and sent to another process, by its positional arguments alone.
        return _again, (type(self), self.__dict__)


def _again(kind: type[TTSError], members: dict[str, Any]) -> TTSError:
    error = kind.__new__(kind, members["message"])
    error.__dict__.update(members)
    return error


class InvalidRequest(TTSError):
    """The caller's input is wrong; repeating it unchanged cannot succeed."""

    code = "invalid_request"


class InvalidValue(InvalidRequest):
    """A field has the wrong type, or a value outside its range or its choices."""

    code = "invalid_value"


class InputTooLong(InvalidRequest):
    """The text is longer than the limit."""

    code = "input_too_long"


class UnknownVoice(InvalidRequest):
    """No voice of that name in the loaded checkpoint."""

    code = "unknown_voice"


class NoSuchVoice(InvalidRequest):
    """No saved voice has that id."""

    code = "no_such_voice"


class UnknownLanguage(InvalidRequest):
    """No language of that name in the loaded checkpoint."""

    code = "unknown_language"


class UnknownModel(InvalidRequest):
    """No loaded model answers to that name."""

    code = "unknown_model"


class UnsupportedFormat(InvalidRequest):
    """The audio format is not one that this server writes."""

    code = "unsupported_format"


class NotSupportedByModel(InvalidRequest):
    """The loaded checkpoint cannot do what was asked, another one could."""

    code = "not_supported_by_model"


class Unauthorized(TTSError):
    """No key, or one that is not in the key file."""

    code = "invalid_api_key"


class Forbidden(TTSError):
    """A browser sent it for a page that has no business here; no key changes that."""

    code = "origin_not_allowed"


class Misdirected(TTSError):
    """It was meant for a server of another name, or its sender does not know whom it talks to."""

    code = "host_not_allowed"


class Unavailable(TTSError):
    """The request is fine but cannot be served now. ``retry_after_s`` says when to try again (seconds)."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """The bounded queue in front of the engine is full."""

    code = "queue_full"


class WaitedTooLong(QueueFull):
    """No turn came within the longest time that a request may wait."""

    code = "queue_wait"


class RateLimited(Unavailable):
    """This client's requests come faster than one client's may."""

    code = "rate_limited"


class NotReady(Unavailable):
    """The model is still loading, or the process is broken and says so."""

    code = "not_ready"


class Downloading(NotReady):
    """The weights are still being downloaded; the model is loaded when they are there."""

    code = "downloading"


class NoWeights(NotReady):
    """There are no weights, and no download that would bring them: it failed, fell silent or was never started."""

    code = "no_weights"


class Draining(Unavailable):
    """The process is on its way down and takes no new work."""

    code = "draining"


class DeadlineExceeded(Unavailable):
    """The request was not finished within its time."""

    code = "deadline_exceeded"


class Unreachable(Unavailable):
    """Nobody answers at a server's address."""

    code = "unreachable"


class Cancelled(TTSError):
    """The caller went away; nobody reads the result."""

    code = "cancelled"


class NoVoiceDirectory(TTSError):
    """Voices cannot be saved: the process has no place for them."""

    code = "no_voice_directory"


class StorageFull(TTSError):
    """There is no room for another saved voice; others have to go first."""

    code = "storage_full"


class StorageFault(Unavailable):
    """The place of the saved voices cannot be read or written."""

    code = "storage_fault"


class EngineError(TTSError):
    """Synthesis failed inside the engine or the codec."""

    code = "engine_error"


class BrokeOff(EngineError):
    """An answer ended before the speech did; what came of it is not all."""

    code = "broke_off"


class OutputError(TTSError):
    """Sound, or another answer, cannot be put where it was wanted: a file, a pipe, the speakers."""

    code = "output_error"


class DeviceFault(EngineError):
    """The GPU reported an error after which nothing more can be computed in this process."""

    code = "device_fault"


#: How torch begins the messages of errors after which a GPU context is lost (running out of memory is none).
_DEVICE_LOST = re.compile(r"\b(CUDA|HIP) error:")


def is_device_lost(error: BaseException) -> bool:
    """Whether nothing more can be computed in this process after ``error``."""
    return isinstance(error, DeviceFault) or bool(_DEVICE_LOST.search(str(error)))


class SelfCheckFailed(EngineError):
    """The device computes something else than the CPU does: its results are not speech."""

    code = "self_check_failed"


class ConfigurationError(TTSError):
    """A setting, a settings file or a key file is wrong; the process must not start with it."""

    code = "configuration_error"


class CheckpointError(TTSError):
    """A checkpoint directory is incomplete, unreadable or of another kind."""

    code = "checkpoint_error"


class DownloadError(TTSError):
    """Weights could not be fetched; what arrived is kept and the next try resumes."""

    code = "download_error"


class PatchError(TTSError):
    """An on-disk patch cannot be applied, reverted or verified."""

    code = "patch_error"
