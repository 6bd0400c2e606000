"""Summaries: metrics against independent computations, the driver from prompts to its table, and what stops it."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.summary import run
from sparsepo_dist.evaluation.summary.bertscore import bertscore
from sparsepo_dist.evaluation.summary.command import summary
from sparsepo_dist.evaluation.summary.edna import edna
from sparsepo_dist.evaluation.summary.lengths import tokens, words
from sparsepo_dist.evaluation.summary.metrics import Task, rouge, self_bleu
from sparsepo_dist.evaluation.summary.significance import significance
from sparsepo_dist.evaluation.target import target
from tests.support.bad_inputs import rewritten
from tests.support.classifiers import save_tiny_classifier
from tests.support.tiny import save_tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TASKS = [
    Task("post", "My sisters' dogs were running away; how could we be calling them back?"),
    Task("post", "He quit."),
    Task("post", "Nothing happened, and nobody was happier for it."),
]
SAMPLES = [
    ["my sister's dog runs away and we call it", "the dogs were back, running"],
    ["he has been quitting his jobs since 2019!", ""],
    ["Nothing happened, and nobody was happier for it.", "nobody, nothing"],
]


def lcs(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for token in one:
        before = row
        row = [0]
        for place, candidate in enumerate(other):
            row.append(before[place] + 1 if token == candidate else max(row[-1], before[place + 1]))
    return row[-1]


def stems(text: str) -> list[str]:
    words = re.findall("[a-z0-9]+", text.lower())
    return [PorterStemmer().stem(word) if len(word) > 3 else word for word in words]


def test_rouge_1_and_2_are_shared_stems_and_pairs_of_them_and_all_are_rouge_scores_own() -> None:
    def f1(text: str, reference: str, size: int) -> float:
        one, other = (Counter(zip(*(stems(side)[k:] for k in range(size)), strict=False)) for side in (text, reference))
        shared = (one & other).total()
        return 200 * shared / (one.total() + other.total()) if shared else 0.0

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = [[(text, task.summary) for text in texts] for task, texts in zip(TASKS, SAMPLES, strict=True)]
    for size, name in ((1, "rouge_1"), (2, "rouge_2")):
        expected = [np.mean([f1(*pair, size) for pair in each]) for each in pairs]
        assert rouge(name).compute(TASKS, SAMPLES) == pytest.approx(expected) and 0 < expected[0] < 100
    for name, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        own = [[100 * scorer.score(reference, text)[theirs].fmeasure for text, reference in each] for each in pairs]
        assert rouge(name).compute(TASKS, SAMPLES) == pytest.approx([np.mean(scores) for scores in own], rel=1e-14)


def test_lengths_are_in_words_and_in_tokens_of_the_models_own_tokenizer(tmp_path: Path) -> None:
    model, tokenizer = save_tiny_model(tmp_path / "model"), tiny_tokenizer()
    assert words().compute(TASKS, SAMPLES) == [(9 + 5) / 2, (8 + 0) / 2, (8 + 2) / 2]
    expected = [np.mean([len(tokenizer.tokenize(text)) for text in texts]) for texts in SAMPLES]
    assert tokens(target(str(model))).compute(TASKS, SAMPLES) == expected


def test_rouge_l_is_the_longest_common_subsequence_of_porter_stems() -> None:
    expected = []
    for task, texts in zip(TASKS, SAMPLES, strict=True):
        reference = stems(task.summary)
        scores = []
        for text in texts:
            common = lcs(reference, stems(text))
            precision, recall = common / max(len(stems(text)), 1), common / len(reference)
            scores.append(200 * precision * recall / (precision + recall) if common else 0.0)
        expected.append(np.mean(scores))
    found = rouge("rouge_l").compute(TASKS, SAMPLES)
    assert found == pytest.approx(expected) and 0 < min(expected[0], expected[2]) < 100


def test_self_bleu_is_sacrebleus_of_each_sample_against_the_others() -> None:
    texts = ["the dog ran away from its home", "the dog ran back to its home", "we called the dog, it ran away"]
    expected = [
        sacrebleu.sentence_bleu(texts[0], [texts[1], texts[2]]).score,
        sacrebleu.sentence_bleu(texts[1], [texts[0], texts[2]]).score,
        sacrebleu.sentence_bleu(texts[2], [texts[0], texts[1]]).score,
    ]
    same, blank = ["one and the same summary"] * 3, ["", "a summary of four words"]
    found = self_bleu().compute(TASKS, [texts, same, blank])
    assert found == pytest.approx([np.mean(expected), 100, 0]) and 0 < found[0] < 100


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa with random weights; its name would make bert_score take it for a T5."""
    folder = tmp_path_factory.mktemp("t5") / "tiny"
    characters = sorted({chr(code) for code in range(33, 127)} | {"Ġ"})
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: place for place, token in enumerate([*special, *characters])}
    RobertaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=130, initializer_range=0.3,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def greedy_f1(
    model: Any, tokenizer: Any, text: str, reference: str, idf: dict[int, float], layer: int, unseen: float
) -> float:
    sides = []
    for side in (text, reference):
        ids = tokenizer(" " + side, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows = model(ids, output_hidden_states=True).hidden_states[layer][0].double()
        weights = torch.tensor([idf.get(int(token), unseen) for token in ids[0]], dtype=torch.float64)
        sides.append((rows / rows.norm(dim=-1, keepdim=True), weights / weights.sum()))
    (one, one_weights), (other, other_weights) = sides
    alike = one @ other.T
    precision, recall = alike.max(1).values @ one_weights, alike.max(0).values @ other_weights
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize("corpus", [None, ["My dog quit.", "How nobody was running", "a", "the sisters"]])
def test_bertscore_is_the_greedy_match_of_idf_weighted_tokens(encoder: Path, corpus: list[str] | None) -> None:
    layer = 2
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    counted = [task.summary for task in TASKS] if corpus is None else corpus
    documents = [set(tokenizer(" " + text)["input_ids"]) for text in counted]
    idf = {
        token: float(np.log((len(counted) + 1) / (sum(token in document for document in documents) + 1)))
        for token in set().union(*documents)
    }
    unseen = float(np.log(len(counted) + 1))
    expected = [
        100 * np.mean([greedy_f1(model, tokenizer, t, task.summary, idf, layer, unseen) if t else 0.0 for t in texts])
        for task, texts in zip(TASKS, SAMPLES, strict=True)
    ]
    metric = bertscore(str(encoder), layer, corpus)
    assert metric.compute(TASKS, SAMPLES) == pytest.approx(expected, rel=1e-4)
    assert metric.measurement.startswith("bertscore-tiny-2-")


def test_a_bertscore_model_whose_layer_nobody_knows(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say which of its 3 with --bertscore_layers"):
        bertscore(str(encoder), None)
    with pytest.raises(UserError, match="--bertscore_layers 4: .* has 3 layers"):
        bertscore(str(encoder), 4)
    with pytest.raises(UserError, match="--bertscore_model .*nowhere: no model could be read"):
        bertscore(str(tmp_path / "nowhere"), 3)
    for name, content in (("model.safetensors", None), ("model.safetensors", 500), ("tokenizer.json", 20)):
        damaged = shutil.copytree(encoder, tmp_path / f"{name}-{content}")
        rewritten(name, content)(damaged)
        with pytest.raises(UserError, match="--bertscore_model .*: it cannot be loaded: ."):
            bertscore(str(damaged), 2)
    known = tmp_path / "roberta-large"
    shutil.copytree(encoder, known)
    with pytest.raises(UserError, match="--bertscore_layers 17: .* has 3 layers"):
        bertscore(str(known), None)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An entailment model with random weights."""
    labels = {0: "Entailment", 1: "neutral", 2: "contradiction"}
    return save_tiny_classifier(tmp_path_factory.mktemp("judge") / "nli", id2label=labels, initializer_range=0.5)


def test_edna_is_the_harmonic_mean_of_faithful_and_different_by_the_best_entailing_sentences(judge: Path) -> None:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(judge).eval(), tiny_tokenizer()

    def p(premise: str, hypothesis: str) -> float:
        with torch.no_grad():
            logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
        return float(logits[0].double().softmax(-1)[0])

    def entailed(premises: list[str], hypotheses: list[str]) -> float:
        if not premises or not hypotheses:
            return 0.0
        return float(np.mean([max(p(each, hypothesis) for each in premises) for hypothesis in hypotheses]))

    document = ["We had a dog.", "It ran away!", "Who could know?"]
    one, other, blank = ["A dog ran.", "Who knows?"], ["It is away"], list[str]()
    expected = []
    for texts in ([one, other], [other, blank]):
        faithful = np.mean([entailed(document, text) for text in texts])
        different = 1 - np.mean([entailed(texts[0], texts[1]), entailed(texts[1], texts[0])])
        expected.append(100 * 2 * faithful * different / (faithful + different))
    tasks = [Task("We had a dog. It ran away!\nWho could know?", "") for _ in range(2)]
    samples = [["A dog ran. Who knows?", "It is away"], ["It is away", " "]]
    assert edna(str(judge), "entailment").compute(tasks, samples) == pytest.approx(expected, rel=1e-4)
    assert 0 < expected[0] < 100 and expected[0] != pytest.approx(expected[1])


def test_an_edna_model_that_is_none(judge: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--edna_label yes: .* has the labels Entailment, neutral, contradiction"):
        edna(str(judge), "yes")
    with pytest.raises(UserError, match="--edna_model .*nowhere: no classifier could be loaded"):
        edna(str(tmp_path / "nowhere"), "entailment")


def write_prompts(path: Path) -> Path:
    rows = [{"prompt": f"POST: story {number}\nTL;DR:", "summary": f"a story, number {number}"} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_prompts_to_a_table_and_nothing_is_sampled_twice(
    encoder: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    models = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    command = [
        "--model", str(models[0]), "--model", f"second={models[1]}", "--prompts", str(prompts), "--prompt_count", "3",
        "--samples", "2", "--max_new_tokens", "12", "--output", str(tmp_path / "out"), "--temperatures", "0.5", "1",
    ]  # fmt: skip
    table = summary(command)
    text = table.read_text()
    assert "BERTScore F1 is missing: no model was given" in text and "EDNA is missing: no entailment model" in text
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["model"], row["temperature"]) for row in record["rows"]] == [
        ("one", 0.5), ("one", 1.0), ("second", 0.5), ("second", 1.0),
    ]  # fmt: skip
    for row in record["rows"]:
        assert len(row["per_prompt"]["rouge_l"]) == 3 and row["rouge_1"] >= row["rouge_l"] >= 0
        assert 0 < row["words"] <= row["tokens"]
        assert row["self_bleu"] == pytest.approx(np.mean(row["per_prompt"]["self_bleu"]))
    again = tmp_path / "again"
    summary([*command, "--output", str(again)])
    assert json.loads((again / "summary.json").read_text()) == record

    monkeypatch.setattr(run, "load_sampler", None)
    measured = [*command, "--bertscore_model", str(encoder), "--bertscore_layers", "2", "--edna_model", str(judge)]
    summary(measured)
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["rouge_l"]) for row in rows] == [row["rouge_l"] for row in record["rows"]]
    assert all(0 < float(row["bertscore"]) <= 100 and 0 < float(row["edna"]) < 100 for row in rows)
    assert "IDF of the references (the paper: of the training" in table.read_text()
    idf = tmp_path / "training.jsonl"
    idf.write_text('{"summary": "a story"}\n{"summary": "number"}\n')
    summary([*measured, "--bertscore_idf", str(idf)])
    assert f"IDF of {idf}." in table.read_text() and "not the trained one, SummaC-Conv" in table.read_text()
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["bertscore"] for row in csv.DictReader(file)] != [row["bertscore"] for row in rows]
    assert "temperature 0.5" in significance([str(tmp_path / "out"), "--resamples", "100"])
    with pytest.raises(UserError, match="measured with another seed"):
        summary([*command, "--seed", "1"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "p", "sumary": "s"}', "row 2: field 'summary' is missing; the row has prompt, sumary; did you"),
        ('{"prompt": "p", "summary": 3}', "row 2: summary must be text, found int"),
        ('{"prompt": null, "summary": "s"}', "row 2: prompt is null"),
        ('{"prompt": " ", "summary": "s"}', "row 2: prompt is empty"),
        ('{"prompt": "p", "summary": "\\ud800"}', "row 2: summary holds half a character"),
        ('["p", "s"]', "row 2: expected an object with prompt, found list"),
        ("{", "row 2: not a JSON object"),
    ],
)
def test_a_bad_row_is_named(row: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "p", "summary": "s"}\n' + row + "\n")
    with pytest.raises(UserError, match=f"{path}, {re.escape(said)}"):
        summary(["--model", "x", "--prompts", str(path), "--prompt_count", "2", "--output", str(tmp_path / "out")])


def test_too_few_rows_and_two_models_of_one_name(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    command = ["--prompts", str(prompts), "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="3 rows, fewer than the 120 asked for"):
        summary([*command, "--model", "x"])
    with pytest.raises(UserError, match="two models are called x"):
        summary([*command, "--prompt_count", "3", "--model", "x", "--model", "x=y"])


@pytest.mark.parametrize("script", ["summary", "significance", "frontier"])
def test_a_scripts_folder_is_no_place_to_import_from(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "evaluation"))
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "evaluation" / f"{script}.py"), run_name="__main__")
    assert end.value.code == 0 and "--output DIR" in capsys.readouterr().out
    assert str(ROOT / "evaluation") not in sys.path
