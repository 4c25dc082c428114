from __future__ import annotations

from pathlib import Path

import pytest

from taskloom.core.errors import ConfigError
from taskloom.core.settings import CHINESE, ENGLISH, Calibration, load_settings


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "taskloom.toml"
    file.write_text("[server]\nport = 1111\nhost = '127.0.0.2'\ndrain_s = 3\n[pools.default]\nreplicas = 2\n", encoding="utf-8")
    monkeypatch.setenv("TASKLOOM_SERVER__PORT", "2222")
    monkeypatch.setenv("TASKLOOM_POOLS__DEFAULT__BATCH__MAX_ITEMS", "8")
    settings = load_settings(file, {"server": {"drain_s": 5}})
    assert settings.server.host == "127.0.0.2"
    assert settings.server.port == 2222
    assert settings.server.drain_s == 5
    assert settings.server.default_timeout_s == 60
    assert settings.pools["default"].replicas == 2
    assert settings.pools["default"].batch.max_items == 8


def test_the_file_is_found_in_the_home(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().server.port == 50051
    home.mkdir()
    (home / "taskloom.toml").write_text("[server]\nport = 4321\n", encoding="utf-8")
    assert load_settings().server.port == 4321
    assert load_settings().home == home


def test_what_is_said_of_a_language_leaves_the_rest_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "taskloom.toml"
    file.write_text(
        "[knowledge.languages.zh]\nembedding = 'mine'\n[knowledge.languages.de]\nreader = 'liest'\n", encoding="utf-8"
    )
    found = load_settings(file).knowledge.languages
    assert set(found) == {"en", "zh", "de"}
    assert (found["zh"].embedding, found["zh"].reader, found["zh"].calibration) == ("mine", "qa-zh", CHINESE)
    assert (found["de"].embedding, found["de"].reader, found["de"].calibration) == ("", "liest", Calibration())
    assert (found["en"].reader, found["en"].calibration) == ("qa-en", ENGLISH)
    file.write_text("[knowledge.languages.zh.calibration]\nintercept = -0.5\n", encoding="utf-8")
    changed = load_settings(file).knowledge.languages["zh"]
    assert changed.reader == "qa-zh"
    assert changed.calibration == CHINESE.model_copy(update={"intercept": -0.5})
    monkeypatch.setenv("TASKLOOM_KNOWLEDGE__LANGUAGES__ZH__READER", "")
    found = load_settings(file).knowledge.languages
    assert (found["zh"].reader, found["zh"].calibration.intercept, found["en"].reader) == ("", -0.5, "qa-en")


def test_a_tilde_in_the_home_means_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKLOOM_HOME", "~/elsewhere")
    assert load_settings().home == Path.home() / "elsewhere"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1", "server.prot is unknown; did you mean 'port'?"),
        ("[pools.default.batch]\nxyz = 1", "pools.default.batch.xyz is unknown; there are: max_cost, "),
        ("[pools.default.autoscale]\nmin_replicas = 1\nmax_replicas = 2\ndelay = 1", "autoscale.delay is unknown"),
        ("[server]\nport = 99999", "server.port"),
        ("[models.intent-en]\npool = 'gpu'", "models.intent-en.pool"),
        ("[pools.default.autoscale]\nmin_replicas = 5\nmax_replicas = 2", "pools.default.autoscale"),
        ("[tls]\ncertificate = 'a.pem'", "tls"),
        ("[server\n", "taskloom.toml"),
        ("[pools.default]\nreplicas = 0", "pools.default.replicas"),
        ("[knowledge.calibration]\nreader = 1", "[knowledge.languages.en.calibration]"),
    ],
)
def test_a_bad_setting_is_named_with_its_file(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "taskloom.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert named in str(caught.value)
    assert "taskloom.toml" in str(caught.value)


@pytest.mark.parametrize("name", ["TASKLOOM_SERVR__PORT", "TASKLOOM_SERVER_PORT"])
def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "5")
    monkeypatch.setenv("TASKLOOM_OF_SOMEBODY_ELSE", "5")
    with pytest.raises(ConfigError, match=f"^{name} .* did you mean TASKLOOM_SERVER__PORT"):
        load_settings()


def test_variables_of_services_around_a_container_are_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKLOOM_SERVER_PORT", "tcp://10.0.0.1:50051")
    monkeypatch.setenv("TASKLOOM_SERVER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("TASKLOOM_RAY_PORT_6379_TCP_ADDR", "10.0.0.1")
    load_settings()
    monkeypatch.setenv("TASKLOOM_POOLS_DEFAULT__REPLICAS", "3")
    with pytest.raises(ConfigError, match="did you mean TASKLOOM_POOLS__DEFAULT__REPLICAS"):
        load_settings()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(ConfigError, match="is no folder"):
        load_settings(overrides={"home": tmp_path / "home"})


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_settings(tmp_path / "nothing.toml")
