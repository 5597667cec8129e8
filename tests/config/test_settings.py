"""Settings: where they come from, and what an operator reads when one is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwen3_tts_service import config
from qwen3_tts_service.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QWEN3_TTS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QWEN3_TTS_MODEL", "/models/a")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "main.toml"
    monkeypatch.setenv("QWEN3_TTS_CONFIG", str(path))
    return path


def test_defaults_are_safe() -> None:
    settings = config.load()
    assert (settings.host, settings.port) == ("127.0.0.1", 8100)
    assert settings.allow_unauthenticated is False
    assert (settings.device, settings.dtype, settings.codec_device) == ("auto", "auto", "cpu")


def test_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('model = "/models/file"\nport = 1\nqueue_size = 3\n')
    monkeypatch.setenv("QWEN3_TTS_PORT", "2")
    settings = config.load()
    assert (settings.model, settings.port, settings.queue_size) == (Path("/models/a"), 2, 3)
    monkeypatch.delenv("QWEN3_TTS_MODEL")
    assert config.load().model == Path("/models/file")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", "eighty", "integer"),
        ("port", "65536", "65535"),
        ("port", "-1", "0"),
        ("host", "example.org", "IPv4 or IPv6"),
        ("device", "gpu", "cuda"),
        ("dtype", "fp16", "'bf16' or 'fp32'"),
        ("codec_device", "tpu", "'cpu' or 'gpu'"),
        ("engine", "other", "'frames' or 'reference'"),
        ("slots", "-1", "0"),
        ("fastest_way", "captured", "'auto', 'compiled' or 'eager'"),
        ("weights", "int4", "'bf16' or 'int8'"),
        ("slots", "65", "64"),
        ("positions", "255", "256"),
        ("codec_dtype", "fp16", "'fp32' or 'bf16'"),
        ("load_models", "never", "'first_use'"),
        ("frame_deadline_s", "0", "0.5"),
        ("unload_after_s", "-1", "0"),
        ("keepalive_s", "nan", "0"),
        ("reader_timeout_s", "0", "greater than 0"),
        ("queue_size", "1001", "1000"),
        ("queue_size", "2.5", "integer"),
        ("max_streams", "all", "integer"),
        ("max_streams", "65", "64"),
        ("max_queue_wait_s", "0", "greater than 0"),
        ("streams_per_key", "65", "64"),
        ("rate_limit_per_key", "often", "rate limit"),
        ("rate_limit_per_key", "1/second;9/minute", "one rate, such as 60/minute"),
        ("max_input_chars", "99", "100"),
        ("request_timeout_s", "nan", "86400"),
        ("request_timeout_s", "inf", "86400"),
        ("drain_timeout_s", "-1", "0"),
        ("allow_unauthenticated", "perhaps", "boolean"),
        ("log_level", "LOUD", "'debug'"),
        ("allowed_hosts", "https://tts.example", "without scheme and port"),
        ("allowed_hosts", "tts.example:8100", "without scheme and port"),
        ("cors_origins", "app.example", "https://example.org"),
        ("cors_origins", "https://app.example/", "without a path"),
        ("cors_origins", "*", "https://example.org"),
        ("cors_origins", "null", "https://example.org"),
        ("model", "", "directory"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(f"QWEN3_TTS_{name.upper()}", value)
    with pytest.raises(ConfigurationError) as caught:
        config.load()
    assert caught.value.param == name
    for word in (f"QWEN3_TTS_{name.upper()}", repr(value), allowed):
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prot = 1", ["`prot`", "main.toml", "port"]),
        ("port = [1]", ["QWEN3_TTS_PORT", "`port` in", "[1]", "integer"]),
        ("port = true", ["QWEN3_TTS_PORT", "True", "number"]),
        ("[server]\nport = 1", ["`server`", "no setting"]),
        ("host = 1", ["QWEN3_TTS_HOST", "1", "string"]),
        ("port = ", ["main.toml", "not TOML"]),
        ("port = 1\nport = 2", ["main.toml", "not TOML"]),
        ("port = 'a'\nqueue_size = 'b'", ["QWEN3_TTS_PORT", "QWEN3_TTS_QUEUE_SIZE"]),
    ],
)
def test_a_wrong_file_is_explained(file: Path, content: str, words: list[str]) -> None:
    file.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        config.load()
    for word in words:
        assert word in caught.value.message


def test_as_many_streams_as_are_sustained_has_a_word(file: Path) -> None:
    for content, streams in (("", 0), ("max_streams = 'auto'", 0), ("max_streams = 3", 3)):
        file.write_text(f"model = '/models/a'\n{content}\n")
        assert config.load().max_streams == streams


def test_further_models_have_a_name_each(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("")
    assert config.load().models == (("a", Path("/models/a")),)
    file.write_text("more_models = ['/models/b', 'design=/models/c']\n")
    expected = (("a", Path("/models/a")), ("b", Path("/models/b")), ("design", Path("/models/c")))
    assert config.load().models == expected
    monkeypatch.setenv("QWEN3_TTS_MORE_MODELS", "/models/b:design=/models/c")
    assert config.load().models == expected
    monkeypatch.setenv("QWEN3_TTS_MORE_MODELS", "/other/a")
    with pytest.raises(ConfigurationError, match="more than one is named a: write NAME=DIRECTORY"):
        config.load()
    monkeypatch.setenv("QWEN3_TTS_SERVED_MODEL_NAME", "b")
    assert [name for name, _ in config.load().models] == ["b", "a"]


def test_hosts_and_origins_are_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("allowed_hosts = ['TTS.example']\ncors_origins = ['https://app.example:8443']\n")
    assert config.load().allowed_hosts == ("tts.example",)
    assert config.load().cors_origins == ("https://app.example:8443",)
    monkeypatch.setenv("QWEN3_TTS_CORS_ORIGINS", "https://a.example  http://[::1]:3000")
    monkeypatch.setenv("QWEN3_TTS_ALLOWED_HOSTS", "a.example b")
    assert config.load().cors_origins == ("https://a.example", "http://[::1]:3000")
    assert config.load().allowed_hosts == ("a.example", "b")


def test_compiled_code_is_kept_where_the_unit_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    assert config.load().compile_cache_directory == Path("/home/somebody/.cache/qwen3-tts/compile")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/qwen3-tts/main")
    assert config.load().compile_cache_directory == Path("/var/cache/qwen3-tts/main/compile")
    monkeypatch.setenv("QWEN3_TTS_COMPILE_CACHE", "/elsewhere")
    assert config.load().compile_cache_directory == Path("/elsewhere")


def test_a_file_that_is_not_there_or_not_text(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"main\.toml cannot be read: No such file"):
        config.load()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not TOML"):
        config.load()


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_TTS_PROT", "1")
    with pytest.raises(ConfigurationError, match=r"QWEN3_TTS_PROT: no such setting.*QWEN3_TTS_PORT"):
        config.load()


def test_a_missing_model_says_what_belongs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_TTS_MODEL")
    with pytest.raises(ConfigurationError, match="QWEN3_TTS_MODEL is required: Directory of the checkpoint"):
        config.load()


def test_localhost_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_TTS_HOST", "localhost")
    assert config.load().host == "127.0.0.1"


def test_aliases_are_names_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_TTS_MODEL", "/models/a")
    monkeypatch.setenv("QWEN3_TTS_VOICE_ALIASES", "Butler=Ryan")
    monkeypatch.setenv("QWEN3_TTS_MODEL_ALIASES", "tts-1:hd=design")
    settings = config.load()
    assert settings.voices_by_alias == {"butler": "ryan"}
    assert settings.models_by_alias == {"tts-1": None, "hd": "design"}
    for name, value in (("VOICE_ALIASES", "butler"), ("VOICE_ALIASES", "=ryan"), ("MODEL_ALIASES", "hd=")):
        with monkeypatch.context() as wrong:
            wrong.setenv(f"QWEN3_TTS_{name}", value)
            with pytest.raises(ConfigurationError, match="write ALIAS=NAME"):
                config.load()
