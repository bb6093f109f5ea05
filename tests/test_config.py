from __future__ import annotations

from pathlib import Path

import pytest

from memlint.config import ConfigError, Configuration, Options, Selection, Settings, inline_options, options_from
from tests.check.tiny import CODES, RULES

DEFAULT = CODES - {"MEM921"}


def settings_of(directory: Path, **arguments: object) -> Settings:
    return Configuration(CODES, **arguments).settings(directory)  # type: ignore[arg-type]


def enabled(*layers: Selection) -> set[str]:
    return set(Settings(Path("/project"), selections=layers).enabled(RULES))


def error(directory: Path, **arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        settings_of(directory, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Selection


def test_without_configuration_the_default_rules_are_on() -> None:
    assert enabled() == DEFAULT


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([Selection(select=("MEM901",))], {"MEM901"}),
        ([Selection(select=("MEM90",))], {"MEM901", "MEM902"}),
        ([Selection(select=("ALL",))], CODES),
        ([Selection(select=("MEM",))], CODES),
        ([Selection(select=())], set()),
        ([Selection(extend_select=("MEM921",))], CODES),
        ([Selection(ignore=("MEM9",))], {"MEM001"}),
        ([Selection(ignore=("ALL",))], set()),
        ([Selection(select=("MEM9",), ignore=("MEM90", "MEM91"))], {"MEM921", "MEM931"}),
        ([Selection(select=("MEM901",), ignore=("MEM9",))], {"MEM901"}),
        ([Selection(select=("MEM9",), ignore=("MEM901",), extend_select=("MEM901",))], CODES - {"MEM001", "MEM901"}),
        ([Selection(select=("MEM901",)), Selection(extend_select=("MEM911",))], {"MEM901", "MEM911"}),
        ([Selection(select=("MEM901",)), Selection(select=("MEM911",))], {"MEM911"}),
        ([Selection(ignore=("MEM901",)), Selection(select=("MEM90",))], {"MEM901", "MEM902"}),
        ([Selection(select=("MEM90",)), Selection(ignore=("MEM902",))], {"MEM901"}),
    ],
)
def test_the_most_specific_selector_wins_and_later_layers_go_first(layers: list[Selection], expected: set[str]) -> None:
    assert enabled(*layers) == expected


# Where configuration is found


def test_the_closest_configuration_counts_alone(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[tool.memlint]\nselect = ["MEM901"]\noutput-format = "concise"\n')
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert settings_of(inner).source == tmp_path / "pyproject.toml"
    assert settings_of(inner).root == tmp_path
    (inner / "memlint.toml").write_text('select = ["MEM911"]\n')
    assert settings_of(inner).enabled(RULES) == {"MEM911"}
    assert settings_of(inner).output_format == "full"
    assert settings_of(tmp_path / "a").enabled(RULES) == {"MEM901"}


@pytest.mark.parametrize("name", ["memlint.toml", ".memlint.toml"])
def test_memlint_has_files_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfignore = ['MEM901']\r\n")
    assert settings_of(tmp_path).enabled(RULES) == DEFAULT - {"MEM901"}


def test_two_files_in_one_directory_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.memlint]\n")
    message = f"{tmp_path}: two configuration files, memlint.toml and pyproject.toml; remove one of them"
    assert error(tmp_path) == message
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    assert settings_of(tmp_path).source == tmp_path / "memlint.toml"
    (tmp_path / ".memlint.toml").write_text("")
    assert "memlint.toml and .memlint.toml" in error(tmp_path)


def test_no_file_counts_in_isolation(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text("this is not TOML")
    assert settings_of(tmp_path, isolated=True) == Settings(Path.cwd())


def test_one_file_can_count_for_everything(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text("this is not TOML")
    other = tmp_path / "other.toml"
    other.write_text('select = ["MEM901"]\n')
    assert settings_of(tmp_path, file=other).enabled(RULES) == {"MEM901"}
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.memlint]\nselect = ["MEM902"]\n')
    assert settings_of(tmp_path, file=project).enabled(RULES) == {"MEM902"}


def test_the_command_line_goes_before_what_is_inline_and_that_before_files(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text(
        'output-format = "json"\nselect = ["MEM901"]\nfix = true\nextend-exclude = ["a"]\n'
    )
    inline = inline_options('output-format = "github"\nignore = ["MEM901"]', CODES)
    settings = settings_of(tmp_path, inline=(inline,), overrides=Options(output_format="concise"))
    assert settings.output_format == "concise"
    assert settings.fix
    assert settings.enabled(RULES) == set()
    assert settings_of(tmp_path, inline=(inline,)).output_format == "github"


# What is in it


def test_every_key_is_understood(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text(
        """
        select = ["MEM9"]
        ignore = ["MEM901"]
        extend-select = ["MEM001"]
        per-file-ignores = { "tests/*" = ["MEM911", "MEM912"], "!src/*" = ["MEM902"] }
        exclude = ["old"]
        extend-exclude = ["*_pb2.py"]
        force-exclude = true
        respect-gitignore = false
        output-format = "sarif"
        fix = true
        unsafe-fixes = true
        device = "t4"
        """
    )
    settings = settings_of(tmp_path)
    assert settings.enabled(RULES) == CODES - {"MEM901"}
    assert settings.enabled_in(tmp_path / "tests" / "a" / "b.py", RULES) == {"MEM001", "MEM913", "MEM921", "MEM931"}
    assert settings.enabled_in(tmp_path / "src" / "b.py", RULES) == CODES - {"MEM901"}
    assert settings.excludes(tmp_path / "old" / "x.py")
    assert settings.excludes(tmp_path / "a" / "x_pb2.py")
    assert not settings.excludes(tmp_path / "build" / "x.py")
    assert settings.force_exclude
    assert not settings.respect_gitignore
    assert (settings.output_format, settings.fix, settings.unsafe_fixes, settings.device) == (
        "sarif",
        True,
        True,
        "t4",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("selct = []", 'unknown key "selct"; did you mean "select"?'),
        ("zzz = 1", 'unknown key "zzz"'),
        ("select = 'MEM901'", '"select" must be a list of strings, not a string'),
        ("select = [1]", '"select" must hold strings only, not an integer'),
        ("select = ['MEM991']", '"select": unknown rule "MEM991"; did you mean "MEM'),
        ("ignore = ['mem901']", '"ignore": unknown rule "mem901"; did you mean "MEM901"?'),
        ("ignore = ['']", '"ignore": unknown rule ""'),
        ("fix = 'yes'", '"fix" must be true or false, not a string'),
        ("fix = 1", '"fix" must be true or false, not an integer'),
        ("device = 'cuda'", "\"device\": no device is called 'cuda'"),
        ("device = 1.5", '"device" must be a string, not a float'),
        ("device = 2020-01-01", '"device" must be a string, not a date or time'),
        ("output-format = 'text'", '"output-format": must be one of full, concise, json, github, sarif, not "text"'),
        ("output-format = 'jsn'", 'not "jsn"; did you mean "json"?'),
        ("per-file-ignores = []", '"per-file-ignores" must be a table of patterns and lists of codes, not a list'),
        ("per-file-ignores = { x = 'MEM901' }", '"per-file-ignores.x" must be a list of strings, not a string'),
        ("per-file-ignores = { x = ['E501'] }", '"per-file-ignores": unknown rule "E501"'),
        ("exclude = ['!']", '"exclude": "!" is not a pattern as in .gitignore files'),
        ("select = [", "not valid TOML: "),
        ("a = 1\na = 2", "not valid TOML: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text(text)
    assert error(tmp_path).startswith(f"{tmp_path}/memlint.toml: ")
    assert message in error(tmp_path)


def test_an_error_holds_for_the_directories_below_and_is_the_same_there(tmp_path: Path) -> None:
    (tmp_path / "memlint.toml").write_text("selct = []")
    configuration = Configuration(CODES)
    messages = set()
    for directory in (tmp_path, tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(ConfigError) as caught:
            configuration.settings(directory)
        messages.add(str(caught.value))
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "not valid UTF-8 at byte 0"),
        (b"[tool]\nmemlint = 1", "tool.memlint must be a table, not an integer"),
        (b"x = " + b"[" * 100_000, "not valid TOML"),
    ],
)
def test_a_broken_project_file_is_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    assert error(tmp_path).startswith(f"{tmp_path}/pyproject.toml: {message}")


def test_messages_name_files_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memlint.toml").write_text("selct = []")
    assert error(tmp_path).startswith("memlint.toml: unknown key")


def test_patterns_are_relative_to_the_file_that_holds_them(tmp_path: Path) -> None:
    options = options_from({"exclude": ["a/b"]}, "here", tmp_path / "sub", CODES)
    settings = options.applied(Settings(tmp_path))
    assert settings.excludes(tmp_path / "sub" / "a" / "b" / "x.py")
    assert not settings.excludes(tmp_path / "a" / "b" / "x.py")


def test_inline_options_are_toml() -> None:
    assert inline_options('select = ["MEM901"]', CODES) == Options(select=("MEM901",))
    with pytest.raises(ConfigError, match="neither a file nor valid TOML"):
        inline_options("select = MEM901", CODES)
    with pytest.raises(ConfigError, match='unknown key "slect"; did you mean "select"'):
        inline_options("slect = []", CODES)
