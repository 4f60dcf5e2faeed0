"""Settings: read, refused in one line, described in full."""

import pytest

from service.settings import Settings, SettingsError, describe_settings, read_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HGUARD_{name.upper()}", raising=False)


def test_environment_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("HGUARD_PORT=9001\nHGUARD_ENGINE=fake\nOTHER=1\n")
    monkeypatch.setenv("HGUARD_PORT", "9002")
    settings = read_settings()
    assert (settings.port, settings.engine) == (9002, "fake")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("ENGINE", "onnx"), ("ON_ERROR", "maybe"), ("SUPPRESS_ALPHA", "1.0"), ("SUPPRESS_ALPHA", "nan")],
)
def test_a_bad_value_is_named_in_one_line(monkeypatch, name, value):
    monkeypatch.setenv(f"HGUARD_{name}", value)
    with pytest.raises(SettingsError) as failure:
        read_settings()
    assert str(failure.value).startswith(f"HGUARD_{name}=")
    assert "\n" not in str(failure.value)


def test_a_misspelt_name_is_not_passed_over(monkeypatch, tmp_path):
    with pytest.raises(SettingsError, match="did you mean HGUARD_MODEL"):
        read_settings({"HGUARD_MODLE": "x"})
    with pytest.raises(SettingsError, match="HGUARD_PASSWORDS is not a setting"):
        read_settings({"HGUARD_PASSWORDS": "keys"})
    (tmp_path / ".env").write_text("HGUARD_PROBES=x\n")
    with pytest.raises(SettingsError, match="HGUARD_PROBES is not"):
        read_settings({})


def test_hazard_a_client_s_key_taken_for_protection_of_the_server():
    """HGUARD_API_KEY would protect nothing, so it is refused; the variable of `hguard ask` is named otherwise."""
    with pytest.raises(SettingsError, match="did you mean HGUARD_API_KEYS_FILE"):
        read_settings({"HGUARD_API_KEY": "secret"})
    assert read_settings({"HGUARD_CLIENT_KEY": "mine", "HGUARD_URL": "http://there"}).api_keys_file is None


@pytest.mark.parametrize(("host", "is_open"), [("0.0.0.0", True), ("::", True), ("box.lan", True), ("::1", False)])
def test_an_address_for_others_needs_a_word(monkeypatch, host, is_open):
    monkeypatch.setenv("HGUARD_HOST", host)
    if is_open:
        with pytest.raises(SettingsError, match="HGUARD_INSECURE=1"):
            read_settings()
        monkeypatch.setenv("HGUARD_INSECURE", "1")
    assert read_settings().host == host


def test_help_lists_every_setting():
    text = describe_settings()
    assert len(text.splitlines()) == len(Settings.model_fields)
    for name in Settings.model_fields:
        assert f"HGUARD_{name.upper()} " in text


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1
