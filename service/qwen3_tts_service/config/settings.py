"""Every setting, with its default, unit and limits."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import limits
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "QWEN3_TTS_"

#: Settings that are lists of hosts or pages: what an entry looks like, and what is said of one that does not.
_ENTRIES = {
    "allowed_hosts": (
        re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"),
        "is no name: write tts.example.org, without scheme and port",
    ),
    # No `*`: it would open a server without keys to every page that somebody on this machine looks at.
    "cors_origins": (
        re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?"),
        "is no origin: write https://example.org, without a path",
    ),
}


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: Path = Field(
        description="Directory of the checkpoint; `qwen3-tts models pull` prints one. Or the file of its `--record`, "
        "`NAME.json`: then the service starts without weights, and loads them when the download is complete."
    )
    download_state: Path | None = Field(
        None, description="File of that download's `--state`, from which `/ready` tells how far it is."
    )
    served_model_name: str = Field("", description="Name in the API; empty: the directory's name.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8100, ge=0, le=65535, description="TCP port; 0 lets the system choose.")
    allow_unauthenticated: bool = Field(False, description="Permit a non-loopback address without API keys.")
    api_keys_file: Path | None = Field(
        None,
        description="Lines `NAME sha256:HEX`; default: the systemd credential `api_keys`, when there is one.",
    )

    loopback_without_key: bool = Field(
        False,
        description="Let requests from this machine in without a key, unless they say that they were forwarded. Not "
        "behind a proxy on this machine that does not say so: there everybody comes from this machine.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names that requests may have in `Host`, besides addresses, `localhost` and the machine's own; a "
        "list in the file, separated by spaces in the environment. Empty: whoever shows a key may use any name.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Web pages that may use the API from a browser, each as `https://example.org`; a list as above. "
        "Those of other origins are refused.",
    )

    more_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further checkpoints in the same process, each `DIRECTORY` or `NAME=DIRECTORY`; a list in "
        "the file, separated by `:` in the environment. A request chooses by `model`, or by the voice it wants.",
    )
    model_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
        description="Further names of models, each `ALIAS` of whichever suits the request or `ALIAS=NAME`; a list in "
        "the file, separated by `:` in the environment. By default what OpenAI's clients send.",
    )
    voice_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        (
            *("alloy=ryan", "ash=aiden", "ballad=eric", "cedar=eric", "coral=serena", "echo=dylan"),
            *("fable=uncle_fu", "marin=ono_anna", "nova=vivian", "onyx=uncle_fu", "sage=serena"),
            *("shimmer=sohee", "verse=aiden"),
        ),
        description="Further names of speakers, each `ALIAS=SPEAKER`; a list as above. By default OpenAI's voices; "
        "those whose speaker the checkpoint lacks are none.",
    )
    load_models: Literal["start", "first_use"] = Field(
        "start", description="When the further checkpoints are loaded: before ready, or by the first request."
    )

    voices_directory: Path | None = Field(
        None,
        description="Where saved voices are kept; default: `voices` in systemd's `$STATE_DIRECTORY`; without either "
        "none are.",
    )
    max_voices: int = Field(
        500,
        ge=0,
        le=100_000,
        description="Most saved voices. Together they may also have no more than `max_body_bytes`, so that their "
        "backup can be sent back.",
    )

    engine: Literal["frames", "reference"] = Field(
        "frames",
        description="frames: many voices at a time, sound while it is made; reference: upstream's own "
        "generate, one request at a time, sound when it is finished.",
    )
    slots: int = Field(
        0,
        ge=0,
        le=64,
        description="Requests that a model speaks at a time with `engine: frames` (1 to 64); 0: 8 on a GPU, 2 on "
        "a CPU.",
    )
    max_streams: int = Field(
        0,
        ge=0,
        le=64,
        description="Requests that a model speaks at a time, at most `slots`. 0 or `auto`: as many as the host makes "
        "1.2 times as fast as they are listened to, measured before ready with as many as may be; one in any case.",
    )
    fastest_way: Literal["auto", "compiled", "eager"] = Field(
        "auto",
        description="How frames may be computed at best. auto: captured on a GPU, compiled on a CPU; eager "
        "compiles nothing, starts at once and speaks slowly.",
    )
    positions: int = Field(
        2048,
        ge=256,
        le=32768,
        description="Longest prompt and speech of a slot together, in tokens and frames of 80 ms (256 to "
        "32768). Memory grows with it.",
    )
    frame_deadline_s: float = Field(
        10.0,
        ge=0.5,
        le=600,
        description="Longest time of one frame, in seconds (0.5 to 600): after it the device counts as hung, "
        "and the process ends for systemd to start it again.",
    )
    compile_cache: Path | None = Field(
        None,
        description="Directory of compiled code; default: `compile` in systemd's `$CACHE_DIRECTORY`, else "
        "`~/.cache/qwen3-tts/compile`.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N (ROCm is cuda to torch).",
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Language model; auto: bf16 on a GPU, else fp32."
    )
    weights: Literal["bf16", "int8"] = Field(
        "bf16",
        description="Matrices of the language model with `engine: frames`. bf16: as `dtype` says; int8: rounded "
        "to 8 bits, half the memory traffic, other codes than upstream's; measure first, an H200 was slower with it.",
    )
    codec_device: Literal["cpu", "gpu"] = Field("cpu", description="Where frames become sound.")
    codec_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="Precision of the codec with `engine: frames`; bf16 is faster and adds noise."
    )
    codec_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that turn frames into sound with `engine: frames`; 0: as many as `cpu_threads`, and "
        "beside a language model on a GPU one of eight less.",
    )
    cpu_threads: int = Field(
        0, ge=0, le=1024, description="torch's threads; 0: torch's choice, the physical cores."
    )
    keepalive_s: float = Field(
        0.0,
        ge=0,
        le=86400,
        description="Speak one frame after so many idle seconds, so that the GPU keeps its clocks up; 0: never.",
    )
    unload_after_s: float = Field(
        0.0,
        ge=0,
        le=31_536_000,
        description="Give a model's memory back after so many idle seconds, the next request loads it again; "
        "0: never.",
    )
    self_check: Literal["auto", "off"] = Field(
        "auto",
        description="Compare the device's logits with the CPU's in float32 before serving; off only to look into "
        "a failure.",
    )

    max_input_chars: int = Field(
        4096, ge=100, le=1_000_000, description="Longest text, in characters; doctor's sentence has to fit."
    )
    max_body_bytes: int = Field(
        16 << 20,
        ge=1024,
        le=1 << 30,
        description="Largest request body, in bytes; a minute of uncompressed stereo fits into the default.",
    )
    max_audio_seconds: float = Field(
        600.0, gt=0, le=36_000, description="Longest speech of one request, in seconds at speed 1."
    )
    mark_ai_generated: bool = Field(
        True,
        description="Say in the metadata that speech is AI-generated, in the formats that have a place for it: "
        "mp3, opus and flac.",
    )
    queue_size: int = Field(
        8, ge=0, le=1000, description="Requests of a model that wait for a slot; one more gets 429."
    )
    max_queue_wait_s: float = Field(
        60.0,
        gt=0,
        le=86400,
        description="Longest time of a request in the queue, in seconds; then it gets 429.",
    )
    streams_per_key: int = Field(
        0,
        ge=0,
        le=64,
        description="Requests of one API key that a model speaks at a time, further ones wait; 0: no limit but the "
        "fair share that every key has when others wait.",
    )
    rate_limit_per_key: str = Field(
        "",
        description="Requests that one API key may send, such as `60/minute` or `1000/day`; one more gets 429. "
        "Empty: no limit. Without keys it holds for all clients together.",
    )
    request_timeout_s: float = Field(
        600.0, gt=0, le=86400, description="Longest time of one request, in seconds, its queue included."
    )
    reader_timeout_s: float = Field(
        60.0,
        gt=0,
        le=86400,
        description="A client that takes nothing for so many seconds, while sound waits for it, is cut off.",
    )
    drain_timeout_s: float = Field(
        60.0, ge=0, le=3600, description="After SIGTERM, time for running requests, in seconds."
    )
    log_text: bool = Field(
        False, description="Write what is spoken into the journal, with the line of each request."
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

    @field_validator("max_streams", mode="before")
    @classmethod
    def _auto_is_none_chosen(cls, value: object) -> object:
        return 0 if value == "auto" else value

    @field_validator("rate_limit_per_key")
    @classmethod
    def _rate_is_one_rate(cls, value: str) -> str:
        if value and len(limits.parse_many(value)) != 1:
            raise ValueError("name one rate, such as 60/minute")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_is_no_boolean(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in (int, float):
            raise ValueError("expected a number")
        return value

    @field_validator(
        "more_models", "model_aliases", "voice_aliases", "allowed_hosts", "cors_origins", mode="before"
    )
    @classmethod
    def _a_string_is_a_list(cls, value: object, info: ValidationInfo) -> object:
        # Hosts and pages have colons themselves.
        separator = None if info.field_name in _ENTRIES else ":"
        return tuple(filter(None, value.split(separator))) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "cors_origins")
    @classmethod
    def _entries_are_well_formed(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        pattern, otherwise = _ENTRIES[str(info.field_name)]
        for entry in value:
            if not pattern.fullmatch(entry):
                raise ValueError(f"{entry!r} {otherwise}")
        return tuple(entry.lower() for entry in value)

    @field_validator("more_models")
    @classmethod
    def _models_have_names_of_their_own(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "model" in info.data:
            entries = _named_models(info.data["model"], info.data["served_model_name"], value)
            names = [name for name, _ in entries]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(
                    f"{len(entries)} models, and more than one is named {', '.join(twice)}: write NAME=DIRECTORY"
                )
        return value

    @field_validator("model_aliases", "voice_aliases")
    @classmethod
    def _aliases_are_names(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for entry in value:
            alias, sign, name = entry.partition("=")
            if not alias or (not name if sign else info.field_name == "voice_aliases"):
                raise ValueError(f"{entry!r} is no alias: write ALIAS=NAME")
        return value

    @property
    def models_by_alias(self) -> dict[str, str | None]:
        """Alias of a model in the API -> the name it stands for; None: whichever suits the request."""
        return {alias: name or None for alias, _, name in (e.partition("=") for e in self.model_aliases)}

    @property
    def voices_by_alias(self) -> dict[str, str]:
        """Alias of a speaker -> the speaker, both in lower case."""
        return {
            alias.lower(): name.lower() for alias, _, name in (e.partition("=") for e in self.voice_aliases)
        }

    @property
    def models(self) -> tuple[tuple[str, Path], ...]:
        """Names in the API and directories of the checkpoints; the first is `model`."""
        return _named_models(self.model, self.served_model_name, self.more_models)

    @property
    def compile_cache_directory(self) -> Path:
        """Where compiled code is kept: the setting, else below systemd's cache directory, else the user's."""
        if self.compile_cache is not None:
            return self.compile_cache
        # systemd separates several directories by colons; the unit has one.
        cache = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
        return (Path(cache) if cache else Path("~/.cache/qwen3-tts").expanduser()) / "compile"

    @property
    def voices_path(self) -> Path | None:
        """Where saved voices are kept: the setting, else below systemd's state directory, else nowhere."""
        if self.voices_directory is not None:
            return self.voices_directory
        state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        return Path(state) / "voices" if state else None

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


def _named_models(model: Path, name: str, more: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    entries = [(name, model)]
    for entry in more:
        own_name, _, directory = entry.rpartition("=")
        entries.append((own_name, Path(directory)))
    return tuple((name or path.resolve().name.removesuffix(".json"), path) for name, path in entries)
