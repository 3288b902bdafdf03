"""The report in a real browser: nothing overflows, nothing is blank, the filters work, and nothing is requested."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser.chromium import BINARY, Chromium, chromium
from tests.unit.report.run_folder import RunFolder, files_of, finished_run, sample

from gapo.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BINARY is None, reason="chromium is not on PATH"),
]
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    profile = tmp_path_factory.mktemp("profile")
    with chromium(profile) as one:
        yield one
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_run(stages=12, verdict="converged", iterations=16)
    return write_report(folder.objects, tmp_path_factory.mktemp("report")).html


@pytest.fixture(scope="module")
def unwieldy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every text is one long word, with a script in it."""
    word = "<script>document.title='taken'</script>" + "x" * 3000
    folder = RunFolder()
    row = sample(0, word, False, prompt=word, verdicts=[{"family": word, "ok": False}])
    metrics = {"eval/satisfaction": 0.5, f"eval/family/{'f' * 150}": 0.5}
    folder.commit(1, "evaluate", metrics, files_of(samples_jsonl=[row]), environment={"image": word})
    folder.hand_over(1, "ppo")
    folder.end(1, "ppo", 0, "permanent", charged=True, exit_code=70, message=word)
    folder.decide(1, "stopped", word)
    return write_report(folder.objects, tmp_path_factory.mktemp("unwieldy")).html


def overflow(browser: Chromium) -> list[str]:
    """Elements that reach beyond the window, but for what scrolls by itself, and whatever widens the page."""
    found: list[str] = browser.evaluate(
        """(() => {
            const width = document.documentElement.clientWidth;
            const wide = [...document.querySelectorAll("body *")].filter(
                (e) => e.getBoundingClientRect().right > width + 1 && !e.closest(".scroll") && !e.closest("svg"));
            const names = wide.map((e) => e.tagName + "." + e.className);
            const page = document.documentElement.scrollWidth;
            return page > width ? [`page ${page} > ${width}`, ...names] : names;
        })()"""
    )
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(browser: Chromium, report: Path, width: int):
    browser.open(report, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.evaluate("document.documentElement.clientWidth") == width
    assert overflow(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_long_words_break_instead_of_widening_the_page(browser: Chromium, unwieldy: Path, width: int):
    browser.open(unwieldy, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert overflow(browser) == []
    assert browser.evaluate("document.title") == "quickstart: gapo report"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_drawn_light_and_dark(browser: Chromium, report: Path, width: int, dark: bool):
    image = pytest.importorskip("PIL.Image")
    browser.open(report, width=width, dark=dark)
    shot = image.open(io.BytesIO(browser.screenshot(scale=0.25))).convert("RGB")
    assert shot.width == pytest.approx(width / 4, abs=1)
    assert shot.height > 750
    background = shot.getpixel((2, 2))
    assert (sum(background) < 150) == dark
    colors = shot.getcolors(1 << 24)
    shares = {color: count / sum(n for n, _ in colors) for count, color in colors}
    assert max(shares.values()) < 0.9
    assert len(shares) > 500


@pytest.mark.parametrize("width", WIDTHS)
def test_the_texts_in_charts_are_large_enough_and_do_not_overlap(browser: Chromium, report: Path, width: int):
    browser.open(report, width=width)
    smallest = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map((t) => t.getBoundingClientRect().height))"
    )
    assert smallest >= 8
    clashes = browser.evaluate(
        """[...document.querySelectorAll("svg.chart")].flatMap((svg) => {
            const texts = [...svg.querySelectorAll("text.tick, text.label, text.unit")]
                .filter((t) => !t.hasAttribute("transform"));
            const boxes = texts.map((t) => [t.textContent, t.getBoundingClientRect()]);
            return boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
                .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
                    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
                .map(([other]) => `${svg.getAttribute("aria-label")}: ${name} / ${other}`));
        })"""
    )
    assert clashes == []


def test_the_sample_filters_show_the_exported_stage_first_and_then_what_is_chosen(
    browser: Chromium, report: Path
):
    browser.open(report, width=1280)
    shown = "[...document.querySelectorAll('tr[data-stage]')].filter((r) => r.offsetParent)"
    choose = (
        "(([i, value]) => {{ const s = document.querySelectorAll('.filters select')[i]; s.value = value;"
        " s.dispatchEvent(new Event('change', {{bubbles: true}})); }})({choice})"
    )
    assert set(browser.evaluate(f"{shown}.map((r) => r.dataset.stage)")) == {"11"}
    browser.evaluate(choose.format(choice="[1, 'fail']"))
    assert set(browser.evaluate(f"{shown}.map((r) => r.dataset.stage + r.dataset.verdict)")) == {"11fail"}
    browser.evaluate(choose.format(choice="[0, '']"))
    assert len(set(browser.evaluate(f"{shown}.map((r) => r.dataset.stage)"))) == 13
    browser.evaluate(choose.format(choice="[1, 'none']"))
    assert browser.evaluate(f"{shown}.length") == 0
    assert browser.evaluate("document.querySelector('#no-sample').offsetParent !== null")


def test_the_page_asks_for_nothing_but_itself_and_runs_no_foreign_script(browser: Chromium, unwieldy: Path):
    browser.open(unwieldy, width=1280)
    assert browser.evaluate("document.title") == "quickstart: gapo report"
    assert browser.requested() == [unwieldy.as_uri()]
    assert browser.complaints() == []


def test_the_pages_policy_stops_a_script_that_escaping_would_have_missed(
    browser: Chromium, report: Path, tmp_path: Path
):
    broken = tmp_path / "broken.html"
    text = report.read_text()
    broken.write_text(text.replace("<header>", "<header><script>document.title='taken'</script>", 1))
    assert broken.read_text() != text
    browser.open(broken, width=1280)
    assert browser.evaluate("document.title") == "quickstart: gapo report"
    assert any("Content Security Policy" in text for text in browser.complaints())
