"""The fused operation inside a sharded policy gives the statistics and gradients of plain float64 autograd.

Two ranks with different batches under ZeRO-3, every parameter sharded. The other side of each comparison,
tests.support.plain_autograd, knows nothing of the package; its own error of 1e-7 is far below every bound here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.brute_force import Response, token_numbers
from tests.support.plain_autograd import Plain, plain_pass
from tests.support.runs import launch
from tests.support.sharded_head import Case, Setting
from tests.support.tiny import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.slow  # one launch, which every test here reads from

RANKS = 2
FAMILIES = {"llama": "tied", "gpt_neox": "untied", "gptj": "bias"}
STATS = ("policy_logp", "reference_logp", "divergence")
MODELS = ("policy", "reference")
FLOAT32 = 1e-5  # relative; statistics, all of them around 1, absolute too
U = 2.0**-8  # half the distance of 1 to the next bfloat16: the largest relative error of rounding to it
TILE = 64 * 16 * 2 * 4  # bytes: 64 of the 272 vocabulary entries, over 16 tokens, of both models, in float32
ALL = 2**30
SOME = 2 * TILE
PLAIN = (Setting("policy", 0, TILE), Setting("reference", ALL, TILE), Setting("policy", SOME, TILE))
RECOMPUTED = (Setting("reference", 0, TILE), Setting("policy", ALL, TILE))
BF16 = (Setting("policy", 0, TILE // 2), Setting("reference", ALL, TILE // 2))


def build_cases(models: Path) -> dict[str, Case]:
    def case(family: str, settings: tuple[Setting, ...], **options: Any) -> Case:
        return Case(family, str(models / family / "policy"), str(models / family / "reference"), settings, **options)

    cases = {}
    for family, head in FAMILIES.items():
        for lora in (False, True):
            name = f"{head}-lora" if lora else head
            cases[name] = case(family, PLAIN, lora=lora)
            cases[f"{name}-checkpointing"] = case(family, RECOMPUTED, lora=lora, checkpointing=True)
        cases[f"{head}-bf16"] = case(family, BF16, bf16=True, lora=head == "untied")
    cases["tied-idle_rank"] = case("llama", PLAIN, masks="zero_on_rank_1")
    cases["bias-lora-idle_rank"] = case("gptj", RECOMPUTED, masks="zero_on_rank_1", lora=True, checkpointing=True)
    return cases


CASES = build_cases(Path())
EXACT = [name for name, case in CASES.items() if not case.bf16]
ROUNDED = [name for name, case in CASES.items() if case.bf16]
LORA = [name for name, case in CASES.items() if case.lora]


def save_model(folder: Path, family: str, seed: int) -> None:
    """A tiny model whose vectors are not the zeros and ones they start as: a bias of 0 would hide its loss."""
    save_tiny_model(folder, family, seed)
    state = load_file(folder / "model.safetensors")
    g = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if value.dim() == 1:
            state[name] = value + 0.2 * torch.randn(value.shape, generator=g)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(repr=False)
class Launched:
    """Cases with their model folders, and per case what each rank recorded."""

    cases: dict[str, Case]
    ranks: list[dict[str, Any]]
    _plain: dict[tuple[Case, str], Plain] = field(default_factory=dict)

    def settings(self, name: str) -> Iterator[tuple[Setting, list[dict[str, Any]]]]:
        """Every setting of a case with its record of each rank."""
        for number, setting in enumerate(self.cases[name].settings):
            yield setting, [rank[name]["settings"][number] for rank in self.ranks]

    def micro_batches(self, name: str) -> Iterator[tuple[Setting, dict[str, Any], dict[str, Tensor]]]:
        """(setting, record, plain autograd's statistics) of every micro-batch of every rank."""
        for setting, records in self.settings(name):
            plain = self.plain(name, setting)
            for record, stats in zip(records, plain.stats, strict=True):
                for micro_batch, wanted in zip(record["micro_batches"], stats, strict=True):
                    yield setting, micro_batch, wanted

    def plain(self, name: str, setting: Setting) -> Plain:
        """Plain autograd's answer. Under bfloat16 it takes the masks as the run had them: near 0, rounding decides."""
        case = dataclasses.replace(self.cases[name], settings=(), checkpointing=False)
        key = (case, setting.divergence)
        if key not in self._plain:
            masks = None
            if case.bf16:
                records = (rank[name]["settings"][0]["micro_batches"] for rank in self.ranks)
                masks = [[(m["m_u"], m["m_d"]) for m in micro_batches] for micro_batches in records]
            self._plain[key] = plain_pass(case, setting, RANKS, self.ranks[0][name]["given"], masks)
        return self._plain[key]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small lose more to waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    folder = tmp_path_factory.mktemp("head_zero3")
    for family in FAMILIES:
        save_model(folder / family / "policy", family, 0)
        save_model(folder / family / "reference", family, 1)
    cases = build_cases(folder)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({name: dataclasses.asdict(case) for name, case in cases.items()}))
    done = launch(["tests.support.sharded_head", str(plan)], ranks=RANKS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    ranks = [{name: torch.load(folder / f"{name}.rank{rank}.pt") for name in cases} for rank in range(RANKS)]
    return Launched(cases, ranks)


def product(rows: Tensor, head: Sequence[Tensor | None]) -> Tensor:
    """Logits in the dtype of the rows."""
    return torch.nn.functional.linear(rows, *(None if part is None else part.to(rows.dtype) for part in head))


def stats_of(logits: Tensor, ref_logits: Tensor, labels: Tensor, setting: Setting) -> dict[str, Tensor]:
    """Statistics of logits in float64."""
    none = torch.empty(0)
    logp, ref_logp, r, f, *_ = token_numbers(
        Response(logits.double(), ref_logits.double(), labels.tolist(), none, none)
    )
    v = r if setting.divergence == "policy" else -f
    return {"policy_logp": logp, "reference_logp": ref_logp, "divergence": v}


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


def gradient_errors(launched: Launched, name: str, setting: Setting, record: dict[str, Any]) -> dict[str, float]:
    want = launched.plain(name, setting).gradients
    masks_too = not launched.cases[name].bf16
    got = {key: grad for key, grad in record["gradients"].items() if masks_too or not key.startswith("masker.heads.")}
    assert got.keys() == want.keys()
    return {key: relative_error(grad, want[key]) for key, grad in got.items()}


@pytest.mark.parametrize("name", EXACT)
def test_gradients_equal_those_of_plain_autograd(launched: Launched, name: str) -> None:
    for setting, records in launched.settings(name):
        for record in records:
            errors = gradient_errors(launched, name, setting, record)
            assert max(errors.values()) <= FLOAT32, (setting, errors)


@pytest.mark.parametrize("name", EXACT)
def test_gradient_norm_is_that_of_the_global_gradient(launched: Launched, name: str) -> None:
    for setting, records in launched.settings(name):
        grads = launched.plain(name, setting).gradients.values()
        want = torch.stack([grad.norm() for grad in grads]).norm()
        assert [record["norm"] for record in records] == pytest.approx([float(want)] * RANKS, rel=FLOAT32)


@pytest.mark.parametrize("name", EXACT)
def test_statistics_and_masks_equal_the_plain_ones(launched: Launched, name: str) -> None:
    for _, got, want in launched.micro_batches(name):
        active = (got["m_u"] != 0) | (got["m_d"] != 0)
        for key in ("m_u", "m_d"):
            torch.testing.assert_close(got[key].double(), want[key], rtol=FLOAT32, atol=FLOAT32)
        for key in STATS:
            assert got[key].dtype == torch.float32
            torch.testing.assert_close(got[key].double()[active], want[key][active], rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("name", CASES)
def test_tokens_without_masks_are_skipped(launched: Launched, name: str) -> None:
    skipped = 0
    for _, got, _ in launched.micro_batches(name):
        idle = (got["m_u"] == 0) & (got["m_d"] == 0)
        assert torch.equal(got["active"], ~idle)
        assert all(torch.equal(got[key][idle], torch.zeros(int(idle.sum()))) for key in STATS)
        skipped += int(idle.sum())
    assert skipped > 0


@pytest.mark.parametrize("name", CASES)
def test_heads_are_whole_only_while_the_operation_runs(launched: Launched, name: str) -> None:
    """Of the policy and of the reference; the operation reads them in forward and in backward."""
    whole = {head: ("AVAILABLE", value.numel()) for head, value in launched.ranks[0][name]["before"].items()}
    assert ("reference.bias" in whole) == ("policy.bias" in whole) == name.startswith("bias")
    sharded = dict.fromkeys(whole, ("NOT_AVAILABLE", 0))
    for _, got, _ in launched.micro_batches(name):
        assert got["resting"] == sharded
        assert got["gathered"] == whole
        assert got["rested"] == sharded


@pytest.mark.parametrize("name", CASES)
def test_no_rank_keeps_a_whole_copy_of_the_references_head(launched: Launched, name: str) -> None:
    assert [rank[name]["whole_reference_heads"] for rank in launched.ranks] == [0] * RANKS


@pytest.mark.parametrize("name", LORA)
def test_lora_leaves_the_head_without_gradient_and_unchanged(launched: Launched, name: str) -> None:
    for _, records in launched.settings(name):
        for record in records:
            assert record["frozen_with_gradient"] == []
            assert all("lora_" in key or key.startswith("masker.heads.") for key in record["gradients"])
            assert sum("lora_A" in key for key in record["gradients"]) >= 6
    for rank in launched.ranks:
        assert all(torch.equal(value, rank[name]["after"][head]) for head, value in rank[name]["before"].items())


@pytest.mark.parametrize("name", sorted(set(CASES) - set(LORA)))
def test_a_step_moves_the_policys_head_and_not_the_references(launched: Launched, name: str) -> None:
    for rank in launched.ranks:
        for head, value in rank[name]["before"].items():
            assert torch.equal(value, rank[name]["after"][head]) == head.startswith("reference"), head


@pytest.mark.parametrize("name", ROUNDED)
def test_bf16_statistics_are_float32_over_rounded_logits(launched: Launched, name: str) -> None:
    """Of the hidden rows and weights as the operation got them.

    Exactly: within float32 of the bfloat16 product's logits. A product that sums in another order may round a logit
    the other way, so that holds for the median token; for all, a logit is off by U of itself at most: log pi by
    twice that (the label's logit, and the log-sum-exp by the largest error of any), the expected log-ratio by
    sum_k q_k |log-ratio_k - v| of it for the model that the expectation is over and by twice it for the other.
    """
    for setting, got, _ in launched.micro_batches(name):
        head, ref_head = (
            [launched.ranks[0][name]["before"].get(f"{m}.{p}") for p in ("weight", "bias")] for m in MODELS
        )
        assert got["hidden"].dtype == got["reference_hidden"].dtype == head[0].dtype == torch.bfloat16
        assert {got[key].dtype for key in STATS} == {torch.float32}
        active = got["active"]
        rows, ref_rows, labels = (got[key][active] for key in ("hidden", "reference_hidden", "labels"))
        rounded = stats_of(product(rows, head), product(ref_rows, ref_head), labels, setting)
        rows, ref_rows = rows.double(), ref_rows.double()
        logits, ref_logits = product(rows, head), product(ref_rows, ref_head)
        exact = stats_of(logits, ref_logits, labels, setting)
        log_ratio = logits.log_softmax(-1) - ref_logits.log_softmax(-1)
        q = (logits if setting.divergence == "policy" else ref_logits).softmax(-1)
        spread = (q * (log_ratio - exact["divergence"][:, None]).abs()).sum(-1)
        top, ref_top = logits.abs().amax(-1), ref_logits.abs().amax(-1)
        bounds = {"policy_logp": 2 * top, "reference_logp": 2 * ref_top, "divergence": (top + ref_top) * (2 + spread)}
        for key, bound in bounds.items():
            values = got[key][active].double()
            assert (values - rounded[key]).abs().median() <= FLOAT32
            assert ((values - exact[key]).abs() <= U * bound).all(), key


@pytest.mark.parametrize("name", ROUNDED)
def test_bf16_statistics_are_near_float64_over_the_rounded_weights(launched: Launched, name: str) -> None:
    """Through the whole model.

    Three blocks and the final norm round some 30 intermediate results by U / sqrt(3) of themselves each (root mean
    square of a uniform error): a random walk of 3 U in the hidden rows, so that much of the largest logit in each
    logit. The head adds 1 U. Twice those 4 U for log pi, as above. In the expected log-ratio the vocabulary's errors
    average out: a quarter of it.
    """
    for _, got, want in launched.micro_batches(name):
        active = got["active"]
        for key, model in (("policy_logp", "policy"), ("reference_logp", "reference"), ("divergence", "policy")):
            bound = (2 if key == "divergence" else 8) * U * want[f"{model}_top"]
            error = (got[key].double() - want[key]).abs()
            assert (error <= bound)[active].all(), (key, (error / bound)[active].max())


@pytest.mark.parametrize("name", ROUNDED)
def test_bf16_gradients_are_near_float64_over_the_rounded_weights(launched: Launched, name: str) -> None:
    """Backward rounds about twice as often as forward (every product has two), so 3 U of the forward and sqrt(2) * 3 U
    of the backward make 5 U of a typical token's gradient. Tokens' gradients, of both signs, cancel in a parameter's
    sum and their errors do not: four times that, 20 U.
    """
    for setting, records in launched.settings(name):
        for record in records:
            errors = gradient_errors(launched, name, setting, record)
            assert max(errors.values()) <= 20 * U, (setting, errors)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.masks == "learned"])
def test_cases_have_tokens_with_either_mask_both_and_none(launched: Launched, name: str) -> None:
    kinds = set()
    for _, got, _ in launched.micro_batches(name):
        kinds |= set(zip((got["m_u"] != 0).tolist(), (got["m_d"] != 0).tolist(), strict=True))
    assert len(kinds) == 4


@pytest.mark.parametrize("name", CASES)
def test_cases_take_several_tiles_and_keep_none_some_or_all(launched: Launched, name: str) -> None:
    for setting, got, _ in launched.micro_batches(name):
        logits = 2 * int(got["active"].sum()) * VOCABULARY * got["hidden"].element_size()
        if logits:
            assert 2 * setting.tile_bytes < logits
            assert setting.keep_bytes in (0, ALL) or setting.tile_bytes < setting.keep_bytes < logits
