"""Settings: everything an operator can choose, from HGUARD_* environment variables and `.env`. Frozen once read."""

import difflib
import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from probes.packaged import DEFAULT_MODEL
from service.guard.policy import OnError

PREFIX = "HGUARD_"
ENV_FILE = ".env"
READ_ELSEWHERE = {
    "HGUARD_CACHE": "folder of downloaded and converted models [~/.cache/hguard]",
    "HGUARD_URL": "address that the commands `hguard ask` and `hguard probes` call",
    "HGUARD_CLIENT_KEY": "API key that they send; the service itself reads keys from HGUARD_API_KEYS_FILE only",
}
"""Variables with our prefix that others read themselves: `probes.models` and `service.cli`."""


class SettingsError(ValueError):
    """A setting is wrong; the message is one line and names the fix."""


class Settings(BaseSettings):
    """One field a variable: `HGUARD_PORT` is `port`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field("127.0.0.1", description="address to listen on; any but loopback needs API keys")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    insecure: bool = Field(default=False, description="1: listen on any address although there are no API keys")
    api_keys_file: Path | None = Field(
        None, description="TOML file of API keys (`python -m service.keys` makes them); unset: open, on loopback only"
    )
    engine: Literal["auto", "transformers", "vllm", "fake"] = Field(
        "auto", description="back end: auto, transformers, vllm; fake serves made-up tokens, for tests only"
    )
    model: str = Field(
        DEFAULT_MODEL, min_length=1, description="packaged name, folder, .gguf file or Hugging Face id of the model"
    )
    probe: str = Field(
        "default", min_length=1, description="name, name@version or folder; default: the shipped one of this model"
    )
    probes_dir: Path | None = Field(
        None, description="folder with probes of your own, looked in before the shipped ones; keeps which ones serve"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on CUDA, float32 on a CPU"
    )
    device: str = Field("auto", min_length=1, description="cpu, cuda, cuda:1, ...; auto: CUDA where there is one")
    max_concurrent: int = Field(32, ge=1, le=4096, description="sequences generated together; more wait their turn")
    queue_size: int = Field(128, ge=0, le=65536, description="requests that wait for them at most; more get 429")
    queue_tokens: int = Field(
        262144, ge=1, description="tokens of all waiting prompts and longest responses at most; more get 429"
    )
    vllm_slots: int = Field(
        64, ge=1, le=4096, description="vllm engine: neurons that can be read in each layer, of all loaded probes"
    )
    vllm_args: dict[str, Any] = Field(
        default_factory=dict,
        description='vllm engine: more of its engine arguments as JSON, such as {"tensor_parallel_size": 2}',
    )
    canary_s: float = Field(
        300.0, ge=0, description="seconds between golden traces that run beside requests; 0: only at the start"
    )
    canary_timeout_s: float = Field(
        60.0, gt=0, description="seconds a golden trace may take, ten times as many at the start; late is not ready"
    )
    drain_s: float = Field(
        30.0, ge=0, description="seconds that requests get to finish after the first SIGTERM; then they end in an error"
    )
    stall_s: float = Field(
        120.0, ge=0, description="seconds without any token while requests run, after which /readyz fails; 0: never"
    )
    on_error: OnError = Field(
        "fail_closed", description="when a response cannot be scored: fail_closed (an error) or fail_open (serve it)"
    )
    suppress_alpha: float = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="alpha of the second generation under policy suppress"
    )
    abstention: str = Field(
        "I am not sure enough to answer that.", min_length=1, description="text that replaces an answer under abstain"
    )
    hold_tokens: int = Field(
        32, ge=0, description="tokens that a held stream keeps back at most; 0: until the whole response was judged"
    )
    admin_key_sha256: str | None = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256, in hex, of a key with the scope admin, beside those of the file",
    )
    remember_s: float = Field(
        600.0, gt=0, description="seconds a prompt from LiteLLM's gateway is kept, waiting for its answer"
    )
    remember_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="memory for those prompts; over it the oldest is forgotten"
    )
    feedback_url: SecretStr | None = Field(
        None,
        description="where labels are kept: sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or off; unset: "
        "SQLite in $XDG_STATE_HOME/hguard or ~/.local/state/hguard",
    )
    feedback_text: bool = Field(default=False, description="1: keep question and response beside a label's numbers")
    feedback_days: float = Field(
        90.0, gt=0, le=36500, description="days after which a response and its label are forgotten"
    )
    feedback_keep: int = Field(
        100_000, ge=1, description="labelled responses kept at most, and as many that have no label"
    )
    drift_window: int = Field(
        1000, ge=200, le=100_000, description="responses behind risk_psi, and labels behind risk_ece, at most"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field(
        "text", description="text for eyes, json for machines: one object a line"
    )
    audit_log: Path | None = Field(
        None, description="file that gets prompt, response and judgement of every answer; unset: none is kept anywhere"
    )
    audit_max_mb: float = Field(100.0, gt=0, description="MiB from which the audit log begins another file")
    audit_files: int = Field(10, ge=1, le=1000, description="files of the audit log that are kept, this one included")
    otel: bool = Field(
        default=False, description="1: an OpenTelemetry span for each request, sent as the OTEL_* variables say"
    )
    score_timeout_s: float = Field(
        10.0, gt=0, description="seconds that judging one response may take; later counts as not scored"
    )
    page: bool = Field(default=True, description="0: no playground page, `/` answers a line of JSON")
    fake_step_s: float = Field(0.0, ge=0, description="fake engine only: seconds a step takes")
    fake_fault: Literal["none", "missing_rows", "short_rows", "nan_scores", "crash", "hang"] = Field(
        "none", description="fake engine only: the fault it shows"
    )

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings.

    Args:
        environment: Searched for misspelt names; `os.environ` if None.

    Raises:
        SettingsError: A value is not allowed, a name is unknown, or the address would be open to others.
    """
    _refuse_unknown(os.environ if environment is None else environment)
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_problems(error))) from None
    if not settings.is_loopback and not settings.insecure and settings.api_keys_file is None:
        raise SettingsError(
            f"HGUARD_HOST={settings.host} can be reached by others and there are no API keys: "
            "set HGUARD_API_KEYS_FILE (`python -m service.keys --help`), use 127.0.0.1, "
            "or set HGUARD_INSECURE=1 where something in front guards it"
        )
    return settings


def describe_settings() -> str:
    """Every variable with its default and meaning, one a line."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = "" if default is None else default
        lines.append(f"  {PREFIX + name.upper():<24}{field.description} [{default}]")
    return "\n".join(lines)


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_context=False):
        name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
        yield f"{name}={problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """A setting that is not read could be one that somebody relies on, such as API keys."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | READ_ELSEWHERE.keys()
    for name in [*environment, *dotenv_values(ENV_FILE)]:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`python -m service --help` lists them"
            raise SettingsError(f"{name} is not a setting of this version: {hint}")
