from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from memlint.config import Configuration, Options, Patterns
from memlint.files import Discovery, ErrorKind, discover, project_files, project_root
from tests.check.tiny import CODES

needs_permissions = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def find(root: Path, *paths: str, **options: object) -> Discovery:
    overrides = Options(**options)  # type: ignore[arg-type]
    return discover([root / path for path in paths or (".",)], Configuration(CODES, overrides))


def names(root: Path, *paths: str, **options: object) -> list[str]:
    discovery = find(root, *paths, **options)
    assert discovery.errors == []
    return [file.path.relative_to(root).as_posix() for file in discovery.files]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def test_a_walk_finds_python_files_and_notebooks_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.py", "a/z.py", "a/c.pyi", "n.ipynb", "x.txt", "py", "a.pyc", "a.py", "a/b.py/c.py", ".hidden.py")
    assert names(tmp_path) == [".hidden.py", "a/b.py/c.py", "a/c.pyi", "a/z.py", "a.py", "b.py", "n.ipynb"]


def test_named_files_are_taken_whatever_they_are_called_and_each_once(tmp_path: Path) -> None:
    write(tmp_path, "script", "a/b.py")
    assert names(tmp_path, "script", "a", "a/b.py", "./a/../a/b.py", "script") == ["a/b.py", "script"]
    assert {file.path.name: file.named for file in find(tmp_path, ".", "a/b.py").files} == {"b.py": True}


@pytest.mark.parametrize(
    "directory", [".git", ".venv", "node_modules", "build", "dist", "__pypackages__", "site-packages"]
)
def test_usual_directories_are_left_out_unless_they_are_named(directory: str, tmp_path: Path) -> None:
    write(tmp_path, f"{directory}/a.py", f"{directory}/sub/b.py", f"sub/{directory}/c.py", "d.py")
    assert names(tmp_path) == ["d.py"]
    assert names(tmp_path, directory) == [f"{directory}/a.py", f"{directory}/sub/b.py"]
    assert names(tmp_path, f"{directory}/a.py") == [f"{directory}/a.py"]
    assert names(tmp_path, directory, f"{directory}/a.py", force_exclude=True) == []


def test_excludes_are_patterns(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "gen/a.py", "x/gen/a.py", "x/y/z.py", "build/a.py", "a_pb2.py")
    assert names(tmp_path, exclude=Patterns(tmp_path, ("/gen", "x/y", "*_pb2.py"))) == [
        "a.py",
        "build/a.py",
        "x/gen/a.py",
    ]
    assert names(tmp_path, extend_exclude=Patterns(tmp_path, ("x",))) == ["a.py", "a_pb2.py", "gen/a.py"]


def test_each_directory_is_walked_by_its_own_configuration(tmp_path: Path) -> None:
    write(tmp_path, "a/x.py", "a/y.py", "b/x.py", "b/y.py")
    (tmp_path / "a" / "memlint.toml").write_text('extend-exclude = ["x.py"]\n')
    (tmp_path / "pyproject.toml").write_text('[tool.memlint]\nextend-exclude = ["y.py"]\n')
    assert names(tmp_path) == ["a/y.py", "b/x.py"]


def test_what_git_ignores_is_left_out(repository: Path) -> None:
    write(repository, "a.py", "out/a.py", "sub/b.py", "sub/keep.py", "sub/deep/b.py", "sub/local.py", "private.py")
    (repository / ".gitignore").write_text("# comment\nout/\nb.py\n!\n")
    (repository / "sub" / ".gitignore").write_text("/local.py\n!deep/b.py\n")
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "exclude").write_text("private.py\n")
    assert names(repository) == ["a.py", "sub/deep/b.py", "sub/keep.py"]
    assert names(repository, "sub") == ["sub/deep/b.py", "sub/keep.py"]
    assert names(repository, "out") == ["out/a.py"]
    assert names(repository, "out/a.py", "private.py") == ["out/a.py", "private.py"]
    assert "out/a.py" in names(repository, respect_gitignore=False)


def test_gitignore_counts_only_in_git_repositories(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "inner/a.py", "inner/b.py")
    (tmp_path / ".gitignore").write_text("a.py\n")
    assert names(tmp_path) == ["a.py", "inner/a.py", "inner/b.py"]
    subprocess.run(["git", "init", "--quiet", tmp_path / "inner"], check=True)
    (tmp_path / "inner" / ".gitignore").write_text("b.py\n")
    assert names(tmp_path) == ["a.py", "inner/a.py"]


def test_a_repository_in_a_repository_has_its_own_rules(repository: Path) -> None:
    write(repository, "inner/a.py")
    (repository / ".gitignore").write_text("a.py\n")
    (repository / "inner" / ".git").write_text("gitdir: elsewhere\n")
    assert names(repository) == ["inner/a.py"]


def test_links_are_followed_to_files_but_not_to_directories(tmp_path: Path) -> None:
    write(tmp_path, "a/x.py", "z.py")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / ".#lock.py").symlink_to("user@host.1:2")
    (tmp_path / "a" / "link.py").symlink_to(tmp_path / "z.py")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.py"
    outside.write_text("")
    (tmp_path / "b.py").symlink_to(outside)
    assert names(tmp_path) == ["a/x.py", "b.py", "z.py"]
    assert names(tmp_path, "a") == ["a/link.py", "a/x.py"]
    through_loop = {(tmp_path / name).resolve() for name in names(tmp_path, "a/loop")}
    assert through_loop == {tmp_path / "a" / "x.py", tmp_path / "z.py", outside}


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    (tmp_path / "self.py").symlink_to("self.py")
    (tmp_path / "lost.py").symlink_to("gone.py")
    circle = f"{tmp_path}/self.py: cannot be read: Too many levels of symbolic links"
    assert list(map(str, find(tmp_path).errors)) == [circle]
    named = find(tmp_path, "self.py", "lost.py").errors
    assert list(map(str, named)) == [circle, f"{tmp_path}/lost.py: leads to gone.py, which does not exist"]


def test_a_file_that_is_found_twice_through_a_link_to_its_directory_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "real/x.py")
    (tmp_path / "link").symlink_to("real")
    assert names(tmp_path, "real", "link") == ["real/x.py"]
    assert names(tmp_path, "link") == ["link/x.py"]


# What cannot be checked


def complaints(root: Path, *paths: str) -> list[str]:
    discovery = find(root, *paths)
    assert all(error.kind is not ErrorKind.SYNTAX for error in discovery.errors)
    return [str(error).replace(f"{root}/", "") for error in discovery.errors]


def test_a_missing_path_is_an_error_and_the_others_are_found(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    assert complaints(tmp_path, "tarin.py", "train.py", "nothing/at/all") == [
        'tarin.py: does not exist; did you mean "train.py"?',
        "nothing/at/all: does not exist",
    ]
    assert [file.path.name for file in find(tmp_path, "tarin.py", "train.py").files] == ["train.py"]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert complaints(tmp_path, "pipe.py") == ["pipe.py: is neither a file nor a directory"]
    assert names(tmp_path) == []


def test_a_link_in_a_circle_is_an_error_if_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.py").symlink_to("x.py")
    assert complaints(tmp_path, "x.py")[0].startswith("x.py: cannot be read: Too many levels of symbolic links")


@needs_permissions
def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "closed/x.py", "open/x.py")
    (tmp_path / "closed").chmod(0)
    try:
        assert complaints(tmp_path) == ["closed: cannot be read: Permission denied"]
    finally:
        (tmp_path / "closed").chmod(0o755)


def test_a_broken_configuration_stops_only_what_it_is_for(tmp_path: Path) -> None:
    write(tmp_path, "good/x.py", "bad/x.py", "bad/sub/y.py", "bad/own/z.py")
    (tmp_path / "bad" / "memlint.toml").write_text("selct = 1")
    discovery = find(tmp_path, ".", "bad/x.py", "bad/sub")
    assert [file.path.parent.name for file in discovery.files] == ["good"]
    assert [str(error) for error in discovery.errors] == [
        f'{tmp_path}/bad/memlint.toml: unknown key "selct"; did you mean "select"?'
    ]


# Projects


def test_the_root_of_a_project_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "p/src/a/x.py", "p/src/b/y.py", "q/z.py")
    x, y, z = (tmp_path / name for name in ("p/src/a/x.py", "p/src/b/y.py", "q/z.py"))
    assert project_root([x]) == x.parent
    assert project_root([x, y]) == tmp_path / "p" / "src"
    (tmp_path / "p" / "setup.cfg").write_text("")
    assert project_root([x]) == project_root([x, y]) == project_root([tmp_path / "p"]) == tmp_path / "p"
    assert project_root([x, z]) == tmp_path


def test_a_project_holds_more_than_what_is_checked(tmp_path: Path) -> None:
    write(tmp_path, "pyproject.toml", "a.py", "b/c.py", "build/d.py")
    given = [tmp_path / "build" / "d.py"]
    expected = [tmp_path / name for name in ("a.py", "b/c.py", "build/d.py")]
    assert list(project_files(tmp_path, given, Configuration(CODES))) == expected


def test_a_folder_that_is_no_project_and_holds_too_much_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "a.py", *(f"data/{number}.py" for number in range(2100)))
    given = [tmp_path / "a.py"]
    assert list(project_files(tmp_path, given, Configuration(CODES))) == given
    (tmp_path / "pyproject.toml").write_text("")
    assert len(project_files(tmp_path, given, Configuration(CODES))) == 2101
