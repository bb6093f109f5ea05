"""A headless Chromium, driven through its own protocol over a pair of pipes: no driver and no network."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 120.0
"""Seconds for one answer; a busy machine takes its time to start a browser."""


class Page:
    """One page of a new browser. ``complaints`` are the messages of its console and the exceptions of its scripts."""

    def __init__(self, profile: Path) -> None:
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        own_in, self._out = os.pipe()
        self._in, own_out = os.pipe()
        assert BROWSER is not None
        # The protocol's pipes are the descriptors 3 and 4.
        command = f'exec "$0" "$@" 3<&{own_in} 4>&{own_out}'
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, *flags],
            pass_fds=(own_in, own_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(own_in)
        os.close(own_out)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._in)
        os.close(self._out)

    def open(self, path: Path, width: int, height: int, *, dark: bool) -> None:
        """Load a file in a window of this size, and wait until its scripts have run."""
        self.complaints.clear()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete'")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + _PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def move_mouse(self, x: float, y: float) -> None:
        """Hover over a place of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element stands on the page, in pixels: x, y, width, height."""
        box: dict[str, float] = self.value(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height}; })()"
        )
        return box

    def picture(self, selector: str) -> Picture:
        """An element as it is drawn, beyond the window as well."""
        clip = {**self.box(selector), "scale": 1}
        return Picture.of(
            base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])
        )

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        name, parameters = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif name == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
            self.complaints.append(parameters["entry"]["text"])
        elif name == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error", "assert"):
            self.complaints.append(str([each.get("value") for each in parameters["args"]]))

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


@dataclass(frozen=True)
class Picture:
    """The pixels of a screenshot."""

    width: int
    height: int
    rows: tuple[bytes, ...]
    """Three bytes a pixel."""

    @classmethod
    def of(cls, png: bytes) -> Picture:
        """Decode a PNG of eight bits a channel, as browsers write them."""
        data, place = b"", 8
        width = height = channels = 0
        while place < len(png):
            size, kind = struct.unpack(">I4s", png[place : place + 8])
            chunk = png[place + 8 : place + 8 + size]
            if kind == b"IHDR":
                width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", chunk)
                assert (depth, interlaced) == (8, 0)
                channels = {2: 3, 6: 4}[color]
            elif kind == b"IDAT":
                data += chunk
            place += size + 12
        rows = _unfiltered(zlib.decompress(data), width * channels, channels)
        return cls(width, height, tuple(_opaque(row, channels) for row in rows))

    def share(self, color: tuple[int, int, int], tolerance: int = 12) -> float:
        """How much of it is about this color, looking at every third pixel of every third row."""
        seen = [row[3 * x : 3 * x + 3] for row in self.rows[::3] for x in range(0, self.width, 3)]
        close = sum(all(abs(a - b) <= tolerance for a, b in zip(each, color, strict=True)) for each in seen)
        return close / len(seen)


def _opaque(row: bytearray, channels: int) -> bytes:
    return bytes(row) if channels == 3 else bytes(value for index, value in enumerate(row) if index % 4 != 3)


def _unfiltered(data: bytes, stride: int, step: int) -> list[bytearray]:
    """Undo the filters of PNG (section 9 of its specification)."""
    rows: list[bytearray] = []
    above = bytearray(stride)
    for start in range(0, len(data), stride + 1):
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
        for index in range(stride if kind else 0):
            left = row[index - step] if index >= step else 0
            corner = above[index - step] if index >= step else 0
            up = above[index]
            predicted = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
            row[index] = (row[index] + predicted) & 0xFF
        rows.append(row)
        above = row
    return rows


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
