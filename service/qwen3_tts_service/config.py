"""The settings of one service process.

Every field comes from ``QWEN3_TTS_<FIELD>`` in the environment or from the TOML file that
``QWEN3_TTS_CONFIG`` names; the environment wins. An unknown key is an error: a misspelt setting that is
silently ignored is found months later.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError

PREFIX = "QWEN3_TTS_"
#: Variables under our prefix that are not settings: the file's name, and the build machine's cache.
NOT_SETTINGS = frozenset({"CONFIG", "CACHE", "DEBIAN_MIRROR", "DEBIAN_SECURITY_MIRROR"})


class Settings(BaseSettings):
    """All settings, with their defaults, units and limits."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: Path = Field(description="Directory of the checkpoint; `qwen3-tts models pull` prints one.")
    served_model_name: str = Field("", description="Name in the API; empty: the directory's name.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8100, ge=0, le=65535, description="TCP port; 0 lets the system choose.")
    allow_unauthenticated: bool = Field(False, description="Permit a non-loopback address without API keys.")
    api_keys_file: Path | None = Field(
        None,
        description="Lines `NAME sha256:HEX`; default: the systemd credential `api_keys`, when there is one.",
    )

    engine: Literal["reference"] = Field(
        "reference", description="How frames are made: upstream's own generate."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N (ROCm is cuda to torch).",
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Language model; auto: bf16 on a GPU, else fp32."
    )
    codec_device: Literal["cpu", "gpu"] = Field("cpu", description="Where frames become sound.")
    codec_dtype: Literal["fp32"] = Field("fp32", description="Precision of the codec.")
    cpu_threads: int = Field(
        0, ge=0, le=1024, description="torch's threads; 0: torch's choice, the physical cores."
    )
    self_check: Literal["auto", "off"] = Field(
        "auto",
        description="Compare the GPU's logits with the CPU's before serving; off only to look into a failure.",
    )

    max_input_chars: int = Field(
        4096, ge=100, le=1_000_000, description="Longest text, in characters; doctor's sentence has to fit."
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, le=1 << 30, description="Largest request body, in bytes.")
    max_audio_seconds: float = Field(
        160.0, gt=0, le=3600, description="Longest speech of one request, in seconds."
    )
    queue_size: int = Field(8, ge=0, le=1000, description="Requests that wait; one more gets 429.")
    request_timeout_s: float = Field(
        600.0, gt=0, le=86400, description="Longest time of one request, in seconds."
    )
    drain_timeout_s: float = Field(
        60.0, ge=0, le=3600, description="After SIGTERM, time for running requests, in seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe message logged."
    )

    @field_validator("host")
    @classmethod
    def _host_is_an_address(cls, value: str) -> str:
        if value == "localhost":
            return "127.0.0.1"
        ipaddress.ip_address(value)
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _model_is_named(cls, value: object) -> object:
        # An empty path would be the current directory.
        if value == "":
            raise ValueError("name the directory of a checkpoint")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_is_no_boolean(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("expected a number")
        return value

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; no .env, no secrets directory: one way each."""
        return (env_settings, init_settings)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"settings file {path} cannot be read: {error.strerror}; correct {PREFIX}CONFIG or the file's rights",
            param=f"{PREFIX}CONFIG",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"settings file {path} is not TOML: {error}", param=f"{PREFIX}CONFIG"
        ) from error


def _unknown_variables() -> list[str]:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {
        PREFIX + name for name in NOT_SETTINGS
    }
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def _explain(error: ValidationError, file: Path | None) -> str:
    parts = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        where = f"{PREFIX}{name.upper()}" + (f" (or `{name}` in {file})" if file else "")
        if item["type"] == "missing":
            parts.append(f"{where} is required: {Settings.model_fields[name].description}")
        elif item["type"] == "extra_forbidden":
            parts.append(
                f"`{name}` in {file} is no setting; there are {', '.join(sorted(Settings.model_fields))}"
            )
        else:
            parts.append(f"{where} is {item['input']!r}: {item['msg']}")
    return "; ".join(parts)


def load() -> Settings:
    """Read the settings of this process.

    Raises ConfigurationError naming each wrong setting, its value and what is allowed.
    """
    name = os.environ.get(f"{PREFIX}CONFIG")
    file = Path(name) if name else None
    if unknown := _unknown_variables():
        raise ConfigurationError(
            f"{', '.join(unknown)}: no such setting; there are "
            + ", ".join(f"{PREFIX}{field.upper()}" for field in sorted(Settings.model_fields)),
            param=unknown[0],
        )
    try:
        return Settings(**(_from_file(file) if file else {}))
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file), param=str(error.errors()[0]["loc"][0])) from error
