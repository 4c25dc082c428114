"""Configuration. Later wins: defaults, `taskloom.toml`, environment, what the caller passes.

The file is the first of: the path that was asked for, `$TASKLOOM_CONFIG`, `./taskloom.toml`,
`$TASKLOOM_HOME/taskloom.toml`. Environment variables are `TASKLOOM_<SECTION>__<FIELD>`, for example
`TASKLOOM_SERVER__PORT=50061`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from taskloom.core.errors import ConfigError
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.types import NAME_PATTERN, PRODUCTION, Frozen, Name

CONFIG_NAME = "taskloom.toml"
ENV_PREFIX = "TASKLOOM_"


class TlsSettings(Frozen):
    """PEM files. With `client_ca` a client must show a certificate that it signed (mutual TLS). The files are read again
    when they change."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def enabled(self) -> bool:
        return self.certificate is not None

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        if (self.certificate is None) != (self.key is None) or (self.client_ca and not self.certificate):
            raise ValueError("tls needs both `certificate` and `key`; `client_ca` needs them too")
        return self


class ServerSettings(Frozen):
    """The gateway. `insecure_public` is the only way to listen beyond loopback without TLS; it is for networks that encrypt
    by themselves."""

    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    dispatcher: Literal["ray", "local"] = "ray"
    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_concurrent_requests: int = Field(default=4096, ge=1)
    default_timeout_s: float = Field(default=60.0, gt=0)
    drain_s: float = Field(default=20.0, ge=0)
    reflection: bool = True
    insecure_public: bool = False
    model_poll_s: float = Field(default=2.0, gt=0)
    """How often moved aliases are looked for; the replicas are then rolled over without a pause."""
    idempotency_ttl_s: float = Field(default=120.0, ge=0)


class BatchSettings(Frozen):
    """How a pool's scheduler forms batches. Costs are in the task's unit (tokens for text)."""

    max_cost: int = Field(default=1024, ge=1)
    max_items: int = Field(default=64, ge=1)
    max_queue: int = Field(default=2048, ge=1)
    in_flight_per_replica: int = Field(default=2, ge=1, le=8)
    """Batches handed to a replica at a time: one runs, others stand by if they are at least half full. With several
    cores they may run side by side, each on its share."""
    streams_per_replica: int = Field(default=4, ge=1, le=64)
    """Answers that a replica writes in parts at a time, beside its batches: at the device they take turns, step by step."""
    max_attempts: int = Field(default=5, ge=1)
    """How many replicas an item may outlive before it is given up."""


class AutoscaleSettings(Frozen):
    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=1)
    target_ongoing_batches: float = Field(default=1.5, gt=0)
    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=120.0, ge=0)

    @model_validator(mode="after")
    def _bounds(self) -> AutoscaleSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, more than max_replicas ({self.max_replicas})")
        return self


class PoolSettings(Frozen):
    """Replicas that hold the same models. `num_cpus` is also how many threads a replica computes with, unless
    `runtime.threads` says otherwise; `num_gpus` may be a fraction."""

    replicas: int = Field(default=2, ge=1)
    autoscale: AutoscaleSettings | None = None
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    batch: BatchSettings = BatchSettings()
    runtime: RuntimeConfig = RuntimeConfig()
    canary_period_s: float = Field(default=5.0, gt=0)
    canary_timeout_s: float = Field(default=20.0, gt=0)
    start_timeout_s: float = Field(default=300.0, gt=0)
    environment: Mapping[str, str] = Field(default_factory=dict)
    """Set for the replica's process, over what Taskloom sets for the allocator and the thread pools."""


class ModelSettings(Frozen):
    """A model to serve: which version or alias, in which pool."""

    version: str = Field(default=PRODUCTION, pattern=NAME_PATTERN)
    pool: Name = "default"


class RaySettings(Frozen):
    """The private Ray cluster. With `address` an existing cluster is joined instead of starting one."""

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1)
    object_store_bytes: int = Field(default=128 * 1024 * 1024, ge=78_643_200)
    dashboard: bool = False


class AuditSettings(Frozen):
    """The audit log. `url` is a SQLAlchemy URL; empty is SQLite under the home folder. `payloads` is what is kept of inputs
    and outputs beside their HMACs: nothing, a redacted form, or all."""

    url: str = ""
    payloads: Literal["none", "redacted", "full"] = "none"
    checkpoint_every: int = Field(default=1000, ge=1)
    checkpoint_folder: Path | None = None
    commit_wait_s: float = Field(default=0.004, ge=0, le=1)
    """How long a commit waits for more records while several requests come at a time; a lone request's never waits."""


class AuthSettings(Frozen):
    """API keys. `url` is a SQLAlchemy URL; empty is SQLite under the home folder."""

    url: str = ""
    cache_s: float = Field(default=2.0, ge=0)
    """How long a looked-up key is believed: the longest that a revoked key still works."""


class TelemetrySettings(Frozen):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"


Limit = float | Literal["off"]


class GateLimits(Frozen):
    """What an optimized version may lose against its parent and still be promoted; `off` lets a figure pass whatever it is.

    Drops are in the metric's own unit, so for one that goes from 0 to 1, 0.01 is one point. Of classes those count whose loss
    is more than chance explains (the 95% interval of the difference lies below 0), and of latencies those of single requests
    where the lower end of the ratio's interval is beyond the limit."""

    max_primary_drop: Limit = 0.01
    max_worst_class_drop: Limit = 0.03
    max_latency_ratio: Limit = 1.0
    """Of the p99 of one request, to the parent's."""


class GateSettings(GateLimits):
    """The limits for every model, and others for some: what is not set there is as for every model."""

    models: Mapping[Name, GateLimits] = Field(default_factory=dict)

    def limits(self, model: str) -> GateLimits:
        own = self.models.get(model)
        return GateLimits(
            **{
                name: getattr(own if own is not None and name in own.model_fields_set else self, name)
                for name in GateLimits.model_fields
            }
        )


class Calibration(Frozen):
    """How sure an answer is: the logistic function of a weighted sum. `reader` weighs the log-odds of the reader's probability,
    `answerable` those that the passage has an answer at all, as the reader holds, `dense` the cosine of question and passage,
    `agreement` the share of the other passages that give the same answer, and for FAQ entries `faq` the cosine beyond
    `faq_intercept`. Which span is the best one is said by the same sum and `place`, divided by the passage's place among those
    that were read (1 for the first). Left open, a confidence is the reader's probability; `benchmarks/knowledge_answers.py`
    fits the weights for a pair of models. The figures for FAQ entries are chosen, not fitted."""

    intercept: float = 0.0
    reader: float = 1.0
    answerable: float = 0.0
    dense: float = 0.0
    agreement: float = 0.0
    place: float = 0.0
    faq_intercept: float = 0.7
    faq: float = 20.0


ENGLISH = Calibration(intercept=-2.52, reader=0.085, answerable=0.41, dense=2.88, agreement=0.0, place=1.0)
"""Fitted for embed-en and qa-en on 300 questions of SquadShifts and 100 that their base says nothing of; `place` was chosen on
the 300."""
CHINESE = Calibration(intercept=-2.14, reader=0.12, answerable=0.3, dense=0.96, agreement=2.95, place=1.0, faq_intercept=0.8)
"""Fitted for embed-zh and qa-zh on 450 questions of CMRC 2018 and 100 that their base says nothing of, by the same benchmark.
Of ten pairs of questions that mean different things, nine had cosines of up to 0.68, and one, of opposite sense, 0.99: FAQ
entries begin above the nine."""


class LanguageModels(Frozen):
    """The models that knowledge bases use for texts of a language; empty for none. Without an embedding model passages are
    found by their words alone, without a reader questions are answered by FAQ entries alone. `entities` finds names and
    `relations` says how two of them are related, for the graph of bases that keep one; without the first, texts of the language
    have no part in it. `calibration` belongs to the first two."""

    embedding: str = ""
    reader: str = ""
    entities: str = ""
    relations: str = ""
    calibration: Calibration = Calibration()


LANGUAGES: Mapping[str, LanguageModels] = {
    "en": LanguageModels(
        embedding="embed-en", reader="qa-en", entities="ner-en", relations="relation-en@1", calibration=ENGLISH
    ),
    "zh": LanguageModels(embedding="embed-zh", reader="qa-zh", calibration=CHINESE),
}


class KnowledgeSettings(Frozen):
    """Knowledge bases. `folder` is where they lie (empty: `knowledge` in the home folder); `threshold` the confidence below
    which there is no answer. What a file or the environment says of a language is laid over what it has by default, field by
    field; languages given as `LanguageModels` are all that there are."""

    folder: Path | None = None
    retriever: str = "faiss"
    languages: Mapping[str, LanguageModels] = LANGUAGES
    default_language: str = "en"
    """Of texts whose script tells none."""
    unrelated: tuple[str, ...] = ("Other",)
    """What a relation model says of two names that are not related."""
    threshold: float = Field(default=0.15, ge=0, le=1)
    search_threads: int = Field(default=4, ge=1)
    idle_s: float = Field(default=1800.0, ge=0)
    """Seconds after which a base that nobody uses is closed, which gives its memory back; the next call opens it again. 0: it
    stays open."""
    max_upsert_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Text that one upsert may carry: it is one version, and is held in memory until it is stored."""

    @model_validator(mode="before")
    @classmethod
    def _over_the_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        if "calibration" in given:
            raise ValueError(
                "a calibration belongs to a language: write it as [knowledge.languages.en.calibration], for example"
            )
        languages = given.get("languages")
        if not isinstance(languages, Mapping) or not any(isinstance(told, Mapping) for told in languages.values()):
            return given
        return {**given, "languages": _laid_over({name: known.model_dump() for name, known in LANGUAGES.items()}, languages)}

    def calibration_of(self, language: str) -> Calibration:
        """Of answers to questions in a language; of one that has no models, that of FAQ entries is all that is asked for."""
        return self.languages[language].calibration if language in self.languages else Calibration()


def _laid_over(known: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """`known`, with what `told` says of the same names instead, however deep."""
    found = dict(known)
    for name, value in told.items():
        under = found.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        found[name] = _laid_over(under, value) if both else value  # type: ignore[arg-type]
    return found


class Settings(BaseSettings):
    """Every setting. Instances are frozen and handed down; nothing reads the environment later."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    home: Path = Field(default_factory=lambda: Path("~/.taskloom").expanduser())
    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    pools: Mapping[Name, PoolSettings] = Field(default_factory=lambda: {"default": PoolSettings()})
    models: Mapping[Name, ModelSettings] = Field(default_factory=dict)
    """Empty: every model of the store that has a `production` alias, in the pool `default`."""
    ray: RaySettings = RaySettings()
    gate: GateSettings = GateSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    audit: AuditSettings = AuditSettings()
    auth: AuthSettings = AuthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_validator("home")
    @classmethod
    def _expanded(cls, home: Path) -> Path:
        home = home.expanduser()
        try:
            mode = home.stat().st_mode
        except OSError:  # it may be made yet, or whoever needs it will say what is wrong
            return home
        if not stat.S_ISDIR(mode):
            raise ValueError(f"{home} is no folder")
        return home

    @model_validator(mode="after")
    def _pools_exist(self) -> Settings:
        for name, model in self.models.items():
            if model.pool not in self.pools:
                raise ValueError(f"models.{name}.pool is {model.pool!r}; pools: {', '.join(sorted(self.pools))}")
        return self

    @property
    def models_folder(self) -> Path:
        return self.home / "models"

    @property
    def knowledge_folder(self) -> Path:
        return self.knowledge.folder.expanduser() if self.knowledge.folder else self.home / "knowledge"


def find_config_file(asked: Path | None = None, home: Path | None = None) -> Path | None:
    """The file that `load_settings` reads, if there is one. A file that was asked for must exist."""
    named = asked or (Path(os.environ["TASKLOOM_CONFIG"]) if os.environ.get("TASKLOOM_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(f"there is no settings file {named}")
        return named
    base = home or Path(os.environ.get("TASKLOOM_HOME", "~/.taskloom")).expanduser()
    return next((path for path in (Path(CONFIG_NAME), base / CONFIG_NAME) if path.is_file()), None)


def load_settings(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in force. `overrides` is nested data, as in the file; raises `ConfigError` naming each bad setting and
    the file it may have come from."""
    home = (overrides or {}).get("home")
    file = find_config_file(config, Path(home) if home else None)

    class Sources(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names them
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            read = (TomlConfigSettingsSource(settings_cls, toml_file=file),) if file else ()
            return (init_settings, env_settings, *read)

    try:
        found = Sources(**dict(overrides or {}))
    except (ValidationError, SettingsError, ValueError) as exc:
        source = f"{file}, " if file else ""
        raise ConfigError(f"settings can't be used ({source}environment, flags): {_problems(exc)}") from exc
    _refuse_unknown_variables()
    return found


def _refuse_unknown_variables() -> None:
    """The environment holds names that are not ours as well, such as those of the services around a container; one that is
    a setting but for its underscores, or names a section but for a slip, is taken for misspelt."""
    for name, value in os.environ.items():
        section, _, rest = name.removeprefix(ENV_PREFIX).partition("__")
        if not name.startswith(ENV_PREFIX) or section.lower() in Settings.model_fields or value.startswith("tcp://"):
            continue
        begins = next((field for field in Settings.model_fields if section.lower().startswith(f"{field}_")), "")
        tail = section[len(begins) + 1 :] if begins else ""
        close = get_close_matches(section.lower(), Settings.model_fields, n=1)
        if begins and (rest or tail.lower() in getattr(Settings.model_fields[begins].annotation, "model_fields", {})):
            meant = "__".join((begins.upper(), tail, *([rest] if rest else [])))
        elif rest and close:
            meant = f"{close[0].upper()}__{rest}"
        else:
            continue
        raise ConfigError(f"{name} in the environment is no setting; did you mean {ENV_PREFIX}{meant}?")


def _problems(exc: Exception) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    return "; ".join(_problem(error) for error in exc.errors(include_url=False))


def _problem(error: Any) -> str:
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return f"{'.'.join(where)} is unknown{_did_you_mean(where)}"
    return f"{'.'.join(where) or 'settings'}: {error['msg'].removeprefix('Value error, ')}"


def _did_you_mean(where: Sequence[str]) -> str:
    """Of the names that stand beside an unknown one."""
    section: Any = Settings
    for part in where[:-1]:
        section = section.model_fields[part].annotation if hasattr(section, "model_fields") else _of(section)
    known = (section if hasattr(section, "model_fields") else _of(section)).model_fields
    close = get_close_matches(where[-1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


def _of(kind: Any) -> Any:
    """The settings that a mapping holds, or that may be None."""
    return next(found for found in get_args(kind) if hasattr(found, "model_fields"))
