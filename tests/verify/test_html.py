"""The page: what it holds, and what a browser makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from memlint.check.results import FileResult
from memlint.findings import Watch
from memlint.report.verification import verdict_renderer
from memlint.trace.events import HOST, Action, Category, MemoryEvent, Origin, Phase, Recording
from memlint.verify.memory import run_memory
from memlint.verify.observations import LineSeen, Observations
from memlint.verify.report import VerifyReport
from memlint.verify.verdicts import Judged, confirmed, refuted
from tests.verify.test_decide import PATH, diagnostic, samples

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
window.onerror = message => document.body.dataset.error = message;
window.addEventListener("load", async () => {
  const chart = document.getElementById("timeline"), result = document.body.dataset;
  result.traces = chart.data.map(trace => trace.name).join(",");
  result.hover = chart.data[0].customdata[0];
  const before = chart._fullLayout.xaxis.range[1];
  document.querySelector("a[data-finding]").click();
  await new Promise(done => setTimeout(done, 300));
  result.moved = before !== chart._fullLayout.xaxis.range[1];
  result.overflow = document.documentElement.scrollWidth > innerWidth;
  result.done = "yes";
});
</script>"""


def recording() -> Recording:
    events = []
    for step in range(8):
        address = 1000 + step
        category = (Category.PARAMETER, Category.ACTIVATION)[step % 2]
        events.append(
            MemoryEvent(
                Action.ALLOCATE,
                HOST,
                address,
                4096,
                4096,
                time_us=step * 1e5,
                step=step,
                phase=Phase.FORWARD,
                category=category,
            )
        )
    return Recording(Origin.CPU_RECORDER, events)


@pytest.fixture
def page() -> str:
    grows = samples(4096, 8192, 12288, 16384, 20480)
    seen = Observations(torch="2.13", steps=8, has_torch=True, lines={0: grows, 1: LineSeen(1, [2])})
    judged = [
        Judged(diagnostic(Watch.REACHABLE), confirmed("it <grows>", "device", bytes_per_step=4096)),
        Judged(diagnostic(Watch.FORWARD_GRAPH), refuted("no graph")),
    ]
    text = "\n".join(f"row {number} <&>" for number in range(1, 20))
    results = [FileResult(PATH, [each.diagnostic for each in judged], None, text)]
    report = VerifyReport(
        "train.py", PATH.parent, judged, seen, run_memory(recording()), results, recording=recording()
    )
    return verdict_renderer("html").render(report)


def test_the_page_needs_no_network(page: str) -> None:
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert len(page) > 1_000_000


def test_the_page_shows_verdicts_and_lines(page: str) -> None:
    own = page[page.rindex("<h2>Findings</h2>") :]
    assert "it &lt;grows&gt;" in own
    assert "<mark>   10  row 10 &lt;&amp;&gt;</mark>" in own
    assert own.count("<article") == 2
    assert "<b>4.00 KiB</b> device per step" in own


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280], ids=["phone", "desktop"])
def test_a_browser_draws_the_page(page: str, width: int, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page.replace("</head>", f"{PROBE}</head>"), "utf-8")
    screenshot = tmp_path / "page.png"
    common = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},1600",
        "--virtual-time-budget=8000",
    )
    assert BROWSER is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dumped = subprocess.run(
        [BROWSER, *common, profile, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    body = re.search(r"<body[^>]*>", dumped)
    assert body is not None
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', body[0]))
    assert found.pop("traces") == "parameter,activation"
    assert found == {"hover": "4.00 KiB", "moved": "true", "overflow": "false", "done": "yes"}
    subprocess.run(
        [BROWSER, *common, profile, f"--screenshot={screenshot}", file.as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert screenshot.stat().st_size > 10_000
