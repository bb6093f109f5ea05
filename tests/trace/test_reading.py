"""Any trace is read, whatever its name; and reading one loads next to nothing."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from memlint.trace.errors import TraceError
from memlint.trace.events import Origin
from memlint.trace.reading import read_trace
from tests.trace.synthetic import BASE, entry, memory, snapshot, write_json, write_pickle


def test_the_content_decides(tmp_path: Path) -> None:
    pickled = write_pickle(tmp_path / "trace.json", snapshot([entry("alloc", BASE, 512)]))
    profiled = write_json(tmp_path / "snapshot.pickle", memory(1, 8))
    compressed = tmp_path / "c"
    compressed.write_bytes(gzip.compress(profiled.read_bytes()))
    assert read_trace(pickled).origin is Origin.CUDA_SNAPSHOT
    assert read_trace(profiled).origin is Origin.PROFILER
    assert read_trace(compressed).origin is Origin.PROFILER


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"import torch\n", b"\x80\x04\x95"])
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TraceError):
            read_trace(path)


def test_reading_needs_neither_torch_nor_libcst_nor_rich(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "snapshot.pickle", snapshot([entry("alloc", BASE, 512)]))
    program = (
        "import sys; from pathlib import Path; from memlint.trace.reading import read_trace;"
        "read_trace(Path(sys.argv[1])); print(sorted({'torch', 'libcst', 'rich', 'click', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
