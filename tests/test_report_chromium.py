"""The report's page in a real browser: nothing fetched, nothing complained of, nothing wider than the screen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import gatescope as gs
from gatescope.reports import compare, report
from test_report import HOSTILE, same, synthetic

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: $GATESCOPE_CHROMIUM, one on the PATH, or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        named = [os.environ.get("GATESCOPE_CHROMIUM"), *map(shutil.which, NAMES), own]
        path = next((name for name in named if name and Path(name).is_file()), None)
        if path is None:
            pytest.skip(
                "no Chromium: none on the PATH, none in playwright's cache (playwright install chromium), and "
                "GATESCOPE_CHROMIUM does not name one"
            )
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(organism, studied, tmp_path_factory):
    """By name: pages of the demo study, of twenty-five groups, of hostile texts, of a comparison."""
    root = tmp_path_factory.mktemp("pages")
    shutil.copytree(studied[0], root / "demo")
    many = synthetic(root / "many", groups=[f"Country {i}-Language {chr(97 + i)}" for i in range(25)], each=2)
    hostile = synthetic(root / "hostile", groups=(HOSTILE, "x" * 200, "c"), word=HOSTILE)
    hostile.note({"model": {"id": HOSTILE}, "study": {"name": HOSTILE + "y" * 200}, "warnings": [HOSTILE]})
    found = {"demo": report(root / "demo", examples=organism.study.evaluation, figures=False)}
    found |= {run.path.name: report(run, figures=False) for run in (many, hostile)}
    return found | {"compare": compare([root / "demo", many], root / "compare.html")}


@pytest.fixture
def opened(browser):
    """Open a page; whatever it says, fails at or asks for is gathered in `.said`."""
    contexts = []

    def open_page(path, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.said.append(request.url))
        page.goto(path.as_uri())
        assert page.said.pop(0) == path.as_uri()
        page.said[:] = [what for what in page.said if not what.startswith("data:")]
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["demo", "many", "hostile", "compare"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_errors_no_requests_and_no_sideways_scroll(pages, opened, name, width):
    for scheme in ("light", "dark"):
        page = opened(pages[name], width, color_scheme=scheme, has_touch=width == 390)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        assert page.said == []


def test_figures_in_the_document_equal_the_runs_numbers(pages, opened):
    table = gs.open_result(pages["demo"].parent).table
    page = opened(pages["demo"])
    for kind, matrix in (("accuracy", table.changes("CAS")), ("flips", table.flips("CAS"))):
        cells = page.locator(f"table[data-map='{kind}'][data-name='CAS'] tbody td")
        exact = [float(v) for v in cells.evaluate_all("all => all.map(cell => cell.dataset.v)")]
        assert same(exact, matrix.flatten().tolist())
        shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in cells.all_inner_texts()]
        assert shown == pytest.approx(matrix.flatten().tolist(), abs=0.0501)
        parts = getattr(table.self_cross()["CAS"], kind)
        row = page.locator(f"table[data-effects='{kind}'] tr", has=page.locator("th", has_text="CAS")).locator("td[data-v]")
        assert same(
            [float(v) for v in row.evaluate_all("all => all.map(c => c.dataset.v)")], [parts.self_, parts.cross, parts.gap]
        )


def test_a_cell_tells_its_counts_to_pointer_and_to_keyboard(pages, opened):
    page = opened(pages["demo"])
    cells = page.locator("table[data-map='accuracy'][data-name='CAS'] tbody td")
    tip = page.locator("#tip")
    assert not tip.is_visible()
    cells.nth(7).hover()
    assert tip.is_visible() and tip.inner_text().startswith("Mask of Belthar, asked about Belthar (its own)\n")
    assert "95% interval" in tip.inner_text() and "McNemar p" in tip.inner_text()
    cells.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.activeElement.getAttribute('aria-describedby') === 'tip'")
    assert tip.inner_text().startswith("Mask of Belthar, asked about Belthar (its own)\n")
    box = tip.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 1280
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    stops = page.locator("table[role=grid] td[tabindex='0']").count()
    assert stops == page.locator("table[role=grid]").count()


def test_colours_follow_the_theme_and_numbers_on_them_stay(pages, opened):
    seen = {}
    for scheme in ("light", "dark"):
        page = opened(pages["demo"], color_scheme=scheme)
        cell = page.locator("table[data-map='accuracy'][data-name='CAS'] td.own").first
        seen[scheme] = [
            page.evaluate("getComputedStyle(document.body).backgroundColor"),
            *cell.evaluate("c => [getComputedStyle(c).backgroundColor, getComputedStyle(c).color]"),
        ]
    assert all(light != dark for light, dark in zip(seen["light"], seen["dark"], strict=True))
    assert all("oklab" in seen[scheme][1] for scheme in seen)


def test_scripts_in_the_data_do_not_run(pages, opened):
    page = opened(pages["hostile"])
    assert page.locator("script").count() == 1 and page.locator("img").count() == 0
    assert HOSTILE in page.locator("h1").inner_text() and page.said == []


def test_it_prints_on_light_paper_even_from_a_dark_screen(pages, opened):
    page = opened(pages["demo"], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 28, 26)"
    assert len(page.pdf(format="A4")) > 10_000
