"""The page: what it holds, and what a browser makes of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from tests.verify.browser import BROWSER, Page
from tests.verify.test_decide import PATH, diagnostic, samples

LIGHT, DARK = (255, 255, 255), (20, 23, 27)
"""The page's background."""
COLORS = {"parameter": (76, 120, 168), "activation": (245, 133, 24)}
OUTSIDE = """[...document.querySelectorAll("body *")].filter(each => {
  const scrolls = each.closest("pre"), box = each.getBoundingClientRect();
  return box.width && box.right > innerWidth + 0.5 && (!scrolls || each === scrolls);
}).map(each => each.outerHTML.slice(0, 80))"""
CONTRASTS = """(() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const behind = each => {
    for (; each; each = each.parentElement) {
      const color = parts(getComputedStyle(each).backgroundColor);
      if (color.length < 4 || color[3] > 0.9) return color;
    }
    return [255, 255, 255];
  };
  const luminance = color => {
    const [red, green, blue] = color.map(value => value / 255).map(
      value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const texts = document.querySelectorAll("h1, p, header, a, pre, code, .figures div, .xtick text, .legendtext");
  return [...texts].map(each => {
    const style = getComputedStyle(each), svg = each instanceof SVGElement;
    const pair = [parts(svg ? style.fill : style.color), behind(svg ? each.ownerSVGElement : each)].map(luminance);
    return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), each.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
})()"""


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if BROWSER is None:
        pytest.skip("needs Chromium")
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_a_browser_draws_the_page(browser: Page, page: str, width: int, dark: bool, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, "utf-8")
    browser.open(file, width, 900, dark=dark)
    browser.wait_for("document.querySelectorAll('#timeline .scatterlayer .trace').length === 2")
    assert browser.value(OUTSIDE) == []
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value(CONTRASTS) == []
    picture = browser.picture("#timeline")
    background = DARK if dark else LIGHT
    assert picture.share(background) > 0.3
    for name, color in COLORS.items():
        red, green, blue = ((one + other) // 2 for one, other in zip(color, background, strict=True))
        assert picture.share((red, green, blue)) > 0.05, name
    assert browser.complaints == []


@pytest.mark.slow
def test_the_page_answers_to_the_mouse(browser: Page, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, "utf-8")
    browser.open(file, 1280, 1600, dark=False)
    browser.wait_for("document.querySelectorAll('#timeline .scatterlayer .trace').length === 2")
    box = browser.box("#timeline .nsewdrag")
    browser.move_mouse(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5)
    browser.wait_for("document.querySelector('#timeline .hoverlayer').textContent.includes('KiB')")
    before = browser.value("document.getElementById('timeline')._fullLayout.xaxis.range")
    browser.value("document.querySelector('a[data-finding]').click()")
    browser.wait_for(f"document.getElementById('timeline')._fullLayout.xaxis.range[1] !== {before[1]}")
    assert browser.value("location.hash") == "#timeline"
    assert browser.complaints == []
