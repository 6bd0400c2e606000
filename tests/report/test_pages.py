"""The page of several runs: what it holds, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.commands.report import main as report
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.curve import MOST_BUCKETS
from sparsepo_dist.report.interval import wilson
from sparsepo_dist.report.pages.build import watch, write_page
from sparsepo_dist.report.pages.results import as_html
from sparsepo_dist.report.pages.shown import distinct_names, read_runs
from tests.report.conftest import metrics_row
from tests.report.reading import Page, read_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\u2028'\"`"
OURS = ["script", "style", "meta", "link", "input"]


def copied(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.parent / name))


def drawn(tmp_path: Path, *folders: Path, refresh: float | None = None) -> Page:
    write_page(folders, tmp_path / "page.html", refresh)
    return read_page(tmp_path / "page.html")


def chart(page: Page, title: str) -> dict[str, Any]:
    (found,) = [one for one in page.data["charts"] if one["title"] == title]
    return dict(found)


def write_metrics(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_share_axes_and_have_names_of_their_own(run: Path, tmp_path: Path) -> None:
    other = copied(run, "night/run-1")
    write_metrics(other, [{"step": step, "split": "train", "loss": 0.5, "loss_of_mine": 2.0} for step in (1, 2, 3)])
    page = drawn(tmp_path, run, other)
    assert [one["name"] for one in page.data["runs"]] == distinct_names([run, other])
    assert distinct_names([Path("/a/x"), Path("/b/x"), Path("/b/y")]) == ["a/x", "b/x", "b/y"]
    loss = chart(page, "Loss")["series"]
    assert [(one["run"], one["heldout"], one["x"]) for one in loss] == [
        (0, False, [1, 2, 3, 4]), (0, True, [0, 4]), (1, False, [1, 2, 3]),
    ]  # fmt: skip
    assert chart(page, "loss_of_mine")["place"] == "other", "what nobody foresaw is drawn too"


def test_masked_and_unmasked_kl_rate_norm_and_speed_have_axes_of_their_own(run: Path, tmp_path: Path) -> None:
    names = ["learning_rate", "grad_norm", "tokens_per_second", "kl/chosen", "masked_kl/chosen"]
    write_metrics(run, [{"step": 1, "split": "train", **dict.fromkeys(names, 1.5)}])
    titles = {one["title"]: len(one["series"]) for one in drawn(tmp_path, run).data["charts"]}
    assert titles == dict.fromkeys(
        ["Learning rate", "Gradient norm", "Speed", "KL per response, unmasked", "KL per response, masked"], 1
    )


def test_an_epoch_that_is_no_number_costs_the_time_that_is_left(run: Path, tmp_path: Path) -> None:
    write_metrics(run, [{"step": 1, "split": "train", "loss": 1.0, "epoch": math.nan}])
    shutil.rmtree(run / "final", ignore_errors=True)
    assert "Statestep 1; last written" in drawn(tmp_path, run).text


def test_accuracies_say_how_many_pairs_they_are_of_and_how_sure(run: Path, tmp_path: Path) -> None:
    row = {"step": 4, "split": "eval", "rewards/accuracies": 0.375, "rewards/ties": 0.25, "pairs": 8}
    older = {"step": 8, "split": "eval", "rewards/accuracies": 0.5}
    write_metrics(run, [row, {"step": 5, "split": "train", "rewards/accuracies": 0.75}, older])
    page = drawn(tmp_path, run)
    training, heldout = chart(page, "Reward accuracy")["series"][:2]
    low, high = wilson(3, 8)
    assert (heldout["pairs"], heldout["low"], heldout["high"]) == ([8, None], [low, None], [high, None])
    assert "pairs" not in training, "the last step of an epoch may have fewer than others"


def test_what_runs_hold_is_text_and_nothing_else(run: Path, tmp_path: Path) -> None:
    plain = drawn(tmp_path, run)
    rows = json.loads((run / "tokens.jsonl").read_text().splitlines()[0])
    rows["prompt"], rows["tokens"] = HOSTILE, [HOSTILE, "a", "b"]
    (run / "tokens.jsonl").write_text(json.dumps(rows) + "\n")
    evaluation = (run / "evaluation.json").read_text()
    (run / "evaluation.json").write_text(
        evaluation.replace('"r <i>"', json.dumps(HOSTILE)).replace('"test"', json.dumps(HOSTILE))
    )
    config = (run / "config.yaml").read_text().replace("base/model", json.dumps(HOSTILE))
    (run / "config.yaml").write_text(config + f"{json.dumps(HOSTILE)}: {json.dumps(HOSTILE)}\n")
    write_metrics(run, [{"step": 1, "split": "train", "loss": 0.5, HOSTILE: 1.0}])
    page = drawn(tmp_path, run.rename(run.with_name("<img src=x onerror=alert(3)>")))
    for tag in OURS:
        assert [t for t, _ in page.elements].count(tag) == [t for t, _ in plain.elements].count(tag), tag
    assert not [t for t, _ in page.elements if t in ("img", "iframe", "object")]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.data["pairs"][0]["responses"][0]["tokens"][0] == HOSTILE and HOSTILE in page.text
    assert "<" not in page.raw["script"][0] and page.raw["script"][0].isascii()


def test_the_pages_policy_allows_its_own_scripts_and_no_address(run: Path, tmp_path: Path) -> None:
    page = drawn(tmp_path, run)
    equivalents = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    (policy,) = [dict(part.split(" ", 1) for part in str(text).split("; ")) for text in equivalents]
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert policy.pop("img-src") == "data:"
    for kind, texts in (("script", page.raw["script"][1:]), ("style", page.raw["style"])):
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert policy.pop(f"{kind}-src").split() == [f"'sha256-{digest}'" for digest in digests]
    assert not policy
    addresses = [a[name] for _, a in page.elements for name in ("src", "href", "action") if name in a]
    assert all(str(address).startswith("data:") for address in addresses)


def test_the_same_response_stands_under_all_runs_that_have_it(run: Path, tmp_path: Path) -> None:
    other, third = copied(run, "b"), copied(run, "c")
    (third / "tokens.jsonl").write_text((run / "tokens.jsonl").read_text().replace('" fine"', '" well"'))
    rows = [json.loads(line) for line in (other / "tokens.jsonl").read_text().splitlines()]
    for row in rows:
        row["pair"], row["kl"] = 7, [math.inf, 1.0, 2.0]
    (other / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both, alone = drawn(tmp_path, run, other, third).data["pairs"]
    assert [[under["run"] for under in response["runs"]] for response in both["responses"]] == [[0, 1]] * 2
    assert [under["run"] for under in alone["responses"][0]["runs"]] == [2]
    assert both["responses"][0]["runs"][1]["values"]["kl"] == [None, 1.0, 2.0]


def test_long_runs_keep_the_page_small_and_their_means_right(run: Path, tmp_path: Path) -> None:
    sizes = []
    for count in (4 * MOST_BUCKETS, 20 * MOST_BUCKETS):
        write_metrics(run, [{"step": s, "split": "train", "loss": math.sin(s / 300) + s % 2} for s in range(count)])
        (loss,) = chart(drawn(tmp_path, run), "Loss")["series"]
        assert max(loss["y"]) > 1.9 and min(loss["y"]) < -0.9, "extremes stay"
        steps, values = loss["means"]["x"], loss["means"]["y"]
        assert values == pytest.approx([0.5 + math.sin(step / 300) for step in steps], abs=0.02)
        sizes.append(len(loss["x"]))
    assert max(sizes) <= 2 * MOST_BUCKETS + 2


def test_what_differs_is_listed_and_the_rest_is_not(run: Path, tmp_path: Path) -> None:
    other = copied(run, "b")
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace("seed: 0", "seed: 5"))
    text = drawn(tmp_path, run, other).text
    listed = text[text.index("What differs") : text.index("Over the steps")]
    assert "training.seed" in listed and "objective" not in listed and "model" not in listed


def test_samples_before_and_after_stand_beside_each_other(run: Path, tmp_path: Path) -> None:
    other = copied(run, "b")
    found = json.loads((run / "evaluation.json").read_text())
    found["trained"]["examples"][0]["response"] = "another"
    (other / "evaluation.json").write_text(json.dumps(found))
    text = (write_page([run, other], tmp_path / "p.html"), (tmp_path / "p.html").read_text())[1]
    (row,) = re.findall(r"<tr><td>p</td>.*?</tr>", text)
    assert re.findall(r'class="sample">(.*?)</span>', row) == ["r &lt;i&gt;", "r &lt;i&gt;", "another"]


def going_on(run: Path) -> Path:
    shutil.rmtree(run / "final")
    for name in ("tokens.jsonl", "evaluation.json"):
        (run / name).unlink()
    return run


def test_a_run_that_goes_on_says_how_far_it_is_and_what_is_missing(run: Path, tmp_path: Path) -> None:
    folder = going_on(run)
    (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("seed: 0", "seed: 0, epochs: 2.5, max_steps: null")
        .replace("a.jsonl}", "a.jsonl, heldout: b.jsonl}")
    )  # fmt: skip
    row = {"split": "train", "loss": 1.0, "seconds": 60.0}
    write_metrics(folder, [{"step": step, "epoch": step / 7, **row} for step in (1, 2, 3)])
    text = drawn(tmp_path, folder).text
    assert "step 3 of 18, about 15 min left; last written 20" in text
    for part in ("held-out numbers: they come with", "heat maps of tokens: they", "the model and its card: they"):
        assert part in text
    write_metrics(folder, [metrics_row(1, "train"), metrics_row(1, "eval")])
    assert "held-out numbers" not in drawn(tmp_path, folder).text
    (folder / "metrics.jsonl").unlink()
    assert "everything: no step is done yet" in drawn(tmp_path, folder).text
    (folder / "final").mkdir()
    write_metrics(folder, [metrics_row(4, "train")])
    assert "Still missing" not in drawn(tmp_path, folder).text


def test_steps_in_all_are_the_trainers(run: Path) -> None:
    folder = going_on(run)
    for per_epoch, epochs, most in ((7, 1.0, None), (7, 0.3, None), (13, 2.5, 20), (1, 3.0, None), (997, 1.7, None)):
        config = (run / "config.yaml").read_text().split(", epochs")[0].replace("seed: 0}", "seed: 0")
        limit = "null" if most is None else most
        (folder / "config.yaml").write_text(f"{config.rstrip()}, epochs: {epochs}, max_steps: {limit}}}\n")
        write_metrics(folder, [{"step": 1, "split": "train", "loss": 1.0, "epoch": 1 / per_epoch}])
        total = math.ceil(epochs * per_epoch)
        (shown,) = read_runs([folder])
        assert shown.steps_in_all() == min(total, most or total)


def test_a_watched_page_follows_until_the_run_is_finished(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(run / "tokens.jsonl", tmp_path)
    folder, page = going_on(run), tmp_path / "w.html"
    seen: list[tuple[float | None, str]] = []

    def sleep(seconds: float) -> None:
        assert seconds == 5 and not list(tmp_path.glob(".writing*"))
        seen.append((read_page(page).data["refresh"], read_page(page).text))
        if len(seen) == 1:
            write_metrics(folder, [metrics_row(9, "train")])
        elif len(seen) == 2:
            (folder / "tokens.jsonl").write_text('{"pair"')
        elif len(seen) == 3:
            (folder / "tokens.jsonl").unlink()
            (folder / "final").mkdir()
        elif len(seen) == 4:
            shutil.copy(tmp_path / "tokens.jsonl", folder)

    watch([folder], page, 5, sleep)
    assert [refresh for refresh, _ in seen] == [5] * 4 and read_page(page).data["refresh"] is None
    assert "finished, 9 steps" in seen[3][1] and read_page(page).data["pairs"], "tables follow the model"
    assert "step 9" in seen[1][1] and "step 9" in seen[2][1], "what cannot be drawn now leaves the page as it was"
    assert "tokens.jsonl, line 1" in caplog.text


def test_the_command_draws_where_it_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(Path(__file__).parents[2] / "docs" / "inspect.png", results / "frontier.png")
    (results / "frontier.md").write_text("# T\n\n| Model | Reward |\n| --- | ---: |\n| a\\|<b> | 0.5 |\n")
    for arguments, page in (
        ([run], run / "report" / "index.html"), ([results], results / "index.html"),
        ([run, results], tmp_path / "report.html"), ([run, "--output", "mine.html"], tmp_path / "mine.html"),
        ([run, "--watch", "1"], run / "report" / "index.html"),
    ):  # fmt: skip
        page.unlink(missing_ok=True)
        assert report(list(map(str, arguments))) == 0
        assert str(page.relative_to(tmp_path)) in capsys.readouterr().out and page.is_file()
    both = read_page(tmp_path / "report.html")
    assert "a|<b>" in both.text and [a["alt"] for t, a in both.elements if t == "img"] == ["frontier"]
    for wrong, words in (([tmp_path / "no"], "is not a run's folder"), ([run, run], "is named twice")):
        assert report(list(map(str, wrong))) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report([str(run), "--watch", "0"])
    assert "from 1 to 86400 seconds" in capsys.readouterr().err


def test_markdown_of_the_drivers() -> None:
    html = as_html("# A\n| m | s |\n| --- | ---: |\n| x | **1** |\n\nRows marked\n`y` & so\n- one\n- two\n")
    assert html == (
        '<h3>A</h3><div class="wide"><table><tr><th>m</th><th class="number">s</th></tr><tr><td>x</td>'
        '<td class="number"><b>1</b></td></tr></table></div><p class="note">Rows marked <code>y</code> &amp; so</p>'
        "<ul><li>one</li><li>two</li></ul>"
    )


def test_a_page_is_not_written_through_a_link(run: Path, tmp_path: Path) -> None:
    kept, outside = tmp_path / "kept.html", tmp_path / "outside"
    kept.write_text("kept")
    outside.mkdir()
    (tmp_path / "page.html").symlink_to(kept)
    write_page([run], tmp_path / "page.html")
    assert kept.read_text() == "kept" and not (tmp_path / "page.html").is_symlink()
    (run / "report").symlink_to(outside)
    with pytest.raises(UserError, match="report is a symbolic link"):
        write_page([run], run / "report" / "index.html")
    assert not list(outside.iterdir())
