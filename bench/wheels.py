"""Downloads pinned wheels and unpacks them, once, into a cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "trl==1.16.0",
    "accelerate==1.15.0",
    "timm==1.0.31",
    "lightning==2.6.6",
    "ultralytics==8.4.190",
    "diffusers==0.42.1",
)
"""Libraries that train, evaluate and load models in many styles."""


@dataclass(frozen=True)
class Package:
    """An unpacked wheel."""

    name: str
    root: Path

    def files(self) -> list[Path]:
        """Its Python files, sorted."""
        return sorted(self.root.rglob("*.py"))


def default_cache() -> Path:
    """Outside every checkout, whose ignore files would hide what lies in it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memlint-bench"


def unpacked(requirement: str, cache: Path) -> Package:
    """The wheel of ``name==version``, without its dependencies; downloaded when the cache lacks it.

    Raises ``subprocess.CalledProcessError`` when pip cannot have it.
    """
    name, version = requirement.split("==")
    root = cache.resolve() / f"{name}-{version}"
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            _download(requirement, Path(temporary))
            (wheel,) = Path(temporary).glob("*.whl")
            part = Path(temporary) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
            part.rename(root)
    return Package(name, root)


def _download(requirement: str, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--only-binary=:all:", "--dest", into, requirement], check=True)
