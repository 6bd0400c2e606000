"""Pages in a real browser: drawn, silent, asking the network for nothing, answering the mouse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.report.pages.build import write_page
from tests.support.browser import Browser, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]

INKED = """[...document.querySelectorAll('canvas')].filter(c => c.checkVisibility()).map(c =>
    new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"""
FIGURE = "[...document.querySelectorAll('figure')].find(f => f.innerText.startsWith('{}'))"
SMOOTH = "smoothing.value = 0.9; smoothing.dispatchEvent(new Event('input'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def rich(run: Path) -> Path:
    """The run with all that a page can draw."""
    rows: list[dict[str, Any]] = []
    for step in range(1, 41):
        masks = {"histogram/reward_mask": [0, step, 0, *[40 - step] * 17], "sparsity/reward_mask/chosen": step / 40}
        numbers = {"loss": 1 / step + step % 2, "rewards/accuracies": 0.5, "learning_rate": 1e-5 * step, "l1/x": 2.0}
        rows.append({"step": step, "split": "train", **numbers, **masks})
        if step % 10 == 0:
            rows.append({"step": step, "split": "eval", "loss": 0.4, "rewards/accuracies": 0.75, "pairs": 32})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def opened(browser: Browser, folder: Path, *runs: Path, refresh: float | None = None) -> Path:
    page = folder / "page.html"
    write_page(runs, page, refresh)
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page)
    return page


def assert_silent(browser: Browser, page: Path) -> None:
    assert not browser.errors
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]


def cell(browser: Browser, title: str, line: str, run: int = 0) -> str:
    """What stands under a chart for a line and a run."""
    row = f"[...{FIGURE.format(title)}.querySelectorAll('tr')].find(r => r.children[0].innerText === '{line}')"
    return str(browser.value(f"{row}.children[{run + 1}].innerText"))


def test_one_run_is_drawn_and_its_numbers_follow_the_mouse(browser: Browser, rich: Path, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, rich)
    inked = browser.value(INKED)
    assert len(inked) == len(browser.value("page.charts.filter(c => c.place === 'charts').map(c => c.title)")) + 1
    assert all(colours > 3 for colours in inked), inked
    assert cell(browser, "Loss", "training") == "0.025" and cell(browser, "Loss", "held out") == "0.4"
    browser.point_at(f"{FIGURE.format('Loss')}.querySelector('.u-over')", across=(20 - 1) / (40 - 1))
    assert cell(browser, "Loss", "training") == "0.05" and cell(browser, "Learning rate", "training") == "2e-4"
    assert cell(browser, "Reward accuracy", "chosen above rejected, held out") == "75 % of 32 pairs (57.9 % to 86.7 %)"
    assert cell(browser, "Reward accuracy", "chosen above rejected") == "50 %"
    said = browser.value("document.getElementById('reward_mask').innerText")
    assert "step 20, " in said and "of 360 tokens" in said
    assert_silent(browser, page)


def test_smoothing_is_an_average_and_folded_charts_are_drawn_when_unfolded(
    browser: Browser, rich: Path, tmp_path: Path
) -> None:
    page = opened(browser, tmp_path, rich)
    browser.value(SMOOTH)
    weights = [0.9 ** (40 - step) for step in range(1, 41)]
    losses = [1 / step + step % 2 for step in range(1, 41)]
    average = sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)
    assert float(cell(browser, "Loss", "training")) == pytest.approx(average, rel=1e-3)
    assert cell(browser, "Loss", "held out") == "0.4", "evaluations are not smoothed"
    before = len(browser.value(INKED))
    browser.value("document.getElementById('other-metrics').open = true")
    browser.wait(f"{INKED}.length === {before} + 1 && {INKED}.every(colours => colours > 3)")
    assert_silent(browser, page)


def test_three_runs_stand_beside_each_other_and_can_be_hidden(browser: Browser, rich: Path, tmp_path: Path) -> None:
    others = [Path(shutil.copytree(rich, rich.parent / name)) for name in ("b", "c")]
    page = opened(browser, tmp_path, rich, *others)
    assert browser.value("[...document.querySelectorAll('.side')].map(s => s.children.length)") == [3, 3]
    assert (
        browser.value("Math.max(...[...document.querySelectorAll('figure')].map(f => f.getBoundingClientRect().right))")
        < 1200
    )
    assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
    tokens = "[...document.querySelectorAll('.tokens')].map(t => [...t.children].map(s => s.className).join())"
    assert browser.value(tokens) == [",zero,"] * 6
    browser.value("quantity.selectedIndex = 3; quantity.dispatchEvent(new Event('change'))")
    assert browser.value(tokens) == ["zero,zero,zero"] * 6
    browser.point_at("document.querySelector('.tokens span')")
    browser.wait("document.querySelectorAll('.tokens .same').length === 3")
    assert "Divergence mask: 0" in browser.value("document.querySelector('.tokens span').title")
    browser.value("document.querySelectorAll('#bar input[type=checkbox]')[1].click()")
    assert browser.value("[...document.querySelectorAll('.side')].map(s => s.children.length)") == [2, 2]
    assert browser.value(f"{FIGURE.format('Loss')}.querySelectorAll('th:not([hidden])').length") == 1 + 2 + 2
    assert_silent(browser, page)


def test_colours_say_sign_and_size(browser: Browser, rich: Path, tmp_path: Path) -> None:
    opened(browser, tmp_path, rich)
    shown = browser.value("[...document.querySelectorAll('.tokens span')].map(s => s.style.background)")
    assert shown == [
        "rgb(234, 175, 128)", "rgb(255, 255, 255)", "rgb(191, 220, 236)",  # -2, 0 and 1, of at most 4 in the pair
        "rgb(0, 114, 178)", "rgb(255, 255, 255)", "rgb(191, 220, 236)",
    ]  # fmt: skip


def test_a_run_that_goes_on_is_loaded_again_where_it_was_looked_at(
    browser: Browser, rich: Path, tmp_path: Path
) -> None:
    shutil.rmtree(rich / "final")
    (rich / "tokens.jsonl").unlink()
    page = opened(browser, tmp_path, rich, refresh=1)
    assert "heat maps of tokens: they come at the end" in browser.value("document.body.innerText")
    browser.value(f"{SMOOTH}; window.scrollTo(0, 700)")
    (rich / "metrics.jsonl").write_text('{"step": 77, "split": "train", "loss": 0.125}\n' * 2)
    (rich / "final").mkdir()
    write_page([rich], page)
    browser.wait(
        "document.body && document.body.innerText.includes('finished, 77 steps') && document.body.dataset.drawn"
    )
    assert browser.value("settings.smoothing") == 0.9
    assert cell(browser, "Loss", "training") == "0.125" and not browser.errors


def test_a_long_runs_average_is_of_all_its_values(browser: Browser, rich: Path, tmp_path: Path) -> None:
    values = [1.0 + 100 * (step % 50 == 0) for step in range(1, 8001)]
    lines = [{"step": step, "split": "train", "loss": value} for step, value in enumerate(values, 1)]
    (rich / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = opened(browser, tmp_path, rich)
    assert browser.value("settings.smoothing") == 0.9, "what many steps need"
    browser.value("smoothing.value = 0.99; smoothing.dispatchEvent(new Event('input'))")
    assert float(cell(browser, "Loss", "training")) == pytest.approx(3, rel=0.1), "of extremes it would be 51"
    browser.point_at(f"{FIGURE.format('Loss')}.querySelector('.u-over')")
    assert browser.value(f"{FIGURE.format('Loss')}.innerText.search(/step (3,9|4,0)/) > 0"), "in the middle of 8,000"
    assert_silent(browser, page)


def test_hostile_names_and_texts_do_nothing(browser: Browser, rich: Path, tmp_path: Path) -> None:
    attack = "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"
    row = json.loads((rich / "tokens.jsonl").read_text().splitlines()[0])
    row["prompt"], row["tokens"], row["branch"] = attack, [attack, "\u202e", attack], attack
    (rich / "tokens.jsonl").write_text(json.dumps(row) + "\n")
    (rich / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "train", "loss": 0.5, attack: 1.0}) + "\n")
    results = tmp_path / "<img src=x onerror=window.taken=1>"
    results.mkdir()
    (results / "a.md").write_text(f"# {attack}\n\n| {attack} |\n| --- |\n| {attack} |\n\n- {attack}\n")
    page = opened(browser, tmp_path, rich.rename(rich.with_name("<script>window.taken=1")), results)
    browser.value("document.getElementById('other-metrics').open = true")
    assert browser.value("window.taken === undefined && document.images.length === 0")
    tokens = browser.value("document.querySelector('.tokens').textContent")
    assert attack in tokens and "\u27e8U+202E\u27e9" in tokens and "\u202e" not in tokens, "nothing turns tokens round"
    assert_silent(browser, page)


def test_markup_that_got_through_would_be_refused(browser: Browser, rich: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page([rich], page)
    hole = "<script>window.taken = 1</script><img src='http://127.0.0.1:9/x' onerror='window.taken = 1'>"
    page.write_text(page.read_text().replace("<h2>", f"{hole}<h2>", 1))
    browser.errors.clear()
    browser.open(page)
    assert browser.value("window.taken === undefined")
    assert sum("Content Security Policy" in error for error in browser.errors) == 3, "script, image, handler"
