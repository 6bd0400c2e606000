"""What the rooms hand to each other. Everything after the models is flat over response tokens: no padding there.

Shape letters used in the whole package: P pairs, N response tokens, T packed input tokens, L layers, D hidden
width, V vocabulary. A sum per response is an `index_add` over `sequence_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # whoever makes a tensor has loaded it
    from torch import Tensor

Message = Mapping[str, Any]
"""A chat message as chat templates take it: `role`, `content` (text, or a list of text parts), and whatever else the
row has, such as `tool_calls`. No value is None."""


Side = str | tuple[Message, ...]
"""A prompt or a response: plain text or chat messages."""


OracleRole = Literal["oracle", "oracle_against"]
"""A frozen model that is for the preference, or against it, by its section of the configuration."""
ORACLE_LOGPS: dict[OracleRole, str] = {"oracle": "oracle_logps", "oracle_against": "against_logps"}
"""Which field of ReferenceOutputs says what each of them makes of a token."""


Spans = tuple[tuple[int, int], ...]
"""[start, end) of those tokens of a response that are trained on, in order; none where all are."""


@dataclass(frozen=True)
class PreferenceRow:
    """One validated row: a prompt and responses to it; every chosen one is preferred to every rejected one."""

    prompt: Side
    """Empty text where the only response is a whole text, which nothing is before."""
    chosen: tuple[Side, ...]
    """At least one, of the prompt's kind."""
    rejected: tuple[Side, ...]
    """None where the row is for supervised fine-tuning, or the objective needs none."""
    chosen_scores: tuple[float, ...] = ()
    """Rewards of the chosen responses; none where the data does not have all of them."""
    rejected_scores: tuple[float, ...] = ()
    """Rewards of the rejected responses, likewise."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """What the chat template is told of tools, as JSON schemas; only where prompt and responses are messages."""

    def swapped(self) -> PreferenceRow:
        """The row of whoever prefers the other responses: chosen and rejected ones, and their scores, change places."""
        return replace(
            self, chosen=self.rejected, rejected=self.chosen, chosen_scores=self.rejected_scores,
            rejected_scores=self.chosen_scores,
        )  # fmt: skip

    def without_rejected(self) -> PreferenceRow:
        """The row for an objective that learns of chosen responses alone."""
        return replace(self, rejected=(), rejected_scores=())


@dataclass(frozen=True)
class TokenizedRow:
    """Token ids of one row. The prompt is tokenised once, so it is the same before every response."""

    prompt_ids: tuple[int, ...]
    """At least one id."""
    chosen: tuple[tuple[int, ...], ...]
    """At least one response of at least one id; each ends with EOS, or as the chat template ends a turn, unless
    truncated."""
    rejected: tuple[tuple[int, ...], ...]
    """Likewise, or none."""
    chosen_scores: tuple[float, ...] = ()
    """Rewards of the chosen responses, or none."""
    rejected_scores: tuple[float, ...] = ()
    """Rewards of the rejected responses, or none."""
    place: str = field(default="", compare=False)
    """Where a person finds the row: its file and number."""
    chosen_trained: tuple[Spans, ...] = ()
    """Of each chosen response; none where all tokens of all of them are trained on."""
    rejected_trained: tuple[Spans, ...] = ()
    """Of each rejected response, likewise."""

    def pairs(self) -> list[TokenizedPair]:
        """Every chosen response with every rejected one, the rejected ones changing faster; with none where there are
        none."""
        scored = bool(self.chosen_scores and self.rejected_scores)
        return [
            TokenizedPair(
                self.prompt_ids, chosen, rejected,
                (self.chosen_scores[i], self.rejected_scores[j]) if scored else None, self.place,
                self.chosen_trained[i] if self.chosen_trained else (),
                self.rejected_trained[j] if self.rejected_trained else (),
            )
            for i, chosen in enumerate(self.chosen)
            for j, rejected in enumerate(self.rejected or ((),))
        ]  # fmt: skip


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one pair. The prompt is tokenised once, so it is the same in both branches."""

    prompt_ids: tuple[int, ...]
    """At least one id."""
    chosen_ids: tuple[int, ...]
    """At least one id; ends with EOS, or as the chat template ends a turn, unless truncated."""
    rejected_ids: tuple[int, ...]
    """Likewise; or none, where only the chosen response is trained on."""
    scores: tuple[float, float] | None = None
    """Rewards of the chosen and of the rejected response, where the data has both."""
    place: str = field(default="", compare=False)
    """Where a person finds the pair: its file and row."""
    chosen_trained: Spans = ()
    """Which tokens of the chosen response are trained on; the others are read only."""
    rejected_trained: Spans = ()
    """Of the rejected response, likewise."""


class BlockSpan(NamedTuple):
    """Packed tokens of an attention block, in this order."""

    prompt: int
    response: int
    """Of the chosen response, or of the only one."""
    rejected: int = 0
    """Of a second response, which shares the prompt with the first."""


@dataclass(frozen=True)
class AttentionBlocks:
    """Which packed tokens attend to each other: B blocks of neighbours, the longest of S tokens.

    A token sees itself and what comes before it in its block; in a block that two responses share, a rejected token
    does not see the chosen ones.
    """

    gather_index: Tensor
    """[B, S] int64: the packed position of each block slot; padding slots repeat position 0."""
    scatter_index: Tensor
    """[T] int64: the flat block slot (b * S + s) that holds each packed token's attention output."""
    spans: tuple[BlockSpan, ...]
    """[B]: what each block is made of."""
    causal: bool
    """Whether no block is shared by two responses."""


@dataclass(frozen=True)
class Responses:
    """Whose token is whose, and what an objective may know of the pairs besides."""

    sequence_id: Tensor
    """[N] int64: 2 * pair + 0 for chosen, 1 for rejected."""
    pairs: int
    """P."""
    scores: Tensor | None = None
    """[P, 2] float32: rewards of chosen and rejected responses."""
    global_means: Tensor | None = None
    """[K] float32: means over the global batch of what `batch_values` of the objective returned, where it has them."""
    history: Tensor | None = None
    """[K] float32: moving average of the global means of earlier steps; None in the first step and in evaluation."""
    keys: Tensor | None = None
    """[P] int64: made of each pair's token ids alone, for what is drawn at random."""


@dataclass(frozen=True)
class TokenShare:
    """That several ranks have the same micro-batch, and compute its packed tokens between them: neighbours each."""

    ranks: int
    """n: how many share it."""
    place: int
    """Of this rank among them."""
    group: Any
    """Their torch.distributed process group."""


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch of pairs in one of the layouts; response tokens are flat over N."""

    input_ids: Tensor
    """[T] int64. A response's last token predicts nothing, so no layout feeds it to the model (padding aside)."""
    position_ids: Tensor
    """[T] int64: the position of a token in its own prompt + response."""
    pair_id: Tensor
    """[T] int64; -1 on padding."""
    branch: Tensor
    """[T] int64: 0 prompt, 1 chosen, 2 rejected; in layouts without sharing, the prompt's copies count as prompt."""
    predict_index: Tensor
    """[N] int64: the packed position whose hidden state predicts response token n."""
    labels: Tensor
    """[N] int64: the response tokens that are trained on."""
    sequence_id: Tensor
    """[N] int64: 2 * pair + 0 for chosen, 1 for rejected."""
    pair_index: Tensor
    """[P] int64: each pair's place in its data set, whatever batch it is in."""
    pair_key: Tensor
    """[P] int64: made of a pair's token ids alone; names it in a reference cache."""
    scores: Tensor | None
    """[P, 2] float32: rewards of chosen and rejected responses; None unless every pair has them."""
    pair_weight: Tensor
    """[P] float32: each pair's share of the global batch's mean loss; 0 for a pair that only fills an empty rank."""
    rows: int
    """T = rows * row length: 1 for packed layouts, 2 * P for `padded`."""
    attention: AttentionBlocks | None
    """None for `padded`, which uses the model's own attention."""
    share: TokenShare | None = None
    """None where this rank computes all of its tokens."""

    @property
    def counted_weight(self) -> Tensor:
        """[P] float32: `pair_weight` on one of the ranks that share the batch and 0 on the others, for what is summed
        over all ranks."""
        return (
            self.pair_weight if self.share is None or self.share.place == 0 else self.pair_weight.new_zeros(self.pairs)
        )

    @property
    def pairs(self) -> int:
        """Number of pairs P."""
        return self.pair_weight.numel()

    @property
    def tokens_of_pairs(self) -> list[int]:
        """Response tokens of each pair: they stand one pair after the other."""
        return (self.sequence_id // 2).bincount(minlength=self.pairs).tolist()

    @property
    def responses(self) -> Responses:
        """What an objective may know of the batch."""
        return Responses(self.sequence_id, self.pairs, self.scores, keys=self.pair_key)


@dataclass(frozen=True)
class ReferenceOutputs:
    """What the frozen reference says of a batch: never logits, rows of response tokens only.

    Where ranks share the batch (`TokenShare`), N counts those whose predicting positions lie on this rank.
    """

    final_hidden: Tensor | None = None
    """[N, D]: hidden states after the final norm, which the head turns into logits."""
    logps: Tensor | None = None
    """[N]: log pi_ref(y_t) in nats, for objectives without a divergence."""
    layer_hidden: Tensor | None = None
    """[L, N, D]: outputs of the blocks (the last one after the final norm), for learned masks."""
    site_means: Tensor | None = None
    """[sites, N] float32: mean over features of each hooked activation, for activation masks."""
    oracle_logps: Tensor | None = None
    """[N]: log-probabilities under the oracle, for masks that select or weigh tokens by its reward."""
    against_logps: Tensor | None = None
    """[N]: log-probabilities under the oracle that is against the preference."""
    mask: Tensor | None = None
    """[N] float32: a finished activation mask, from a cache."""

    def split(self, sizes: Sequence[int]) -> list[ReferenceOutputs]:
        """Outputs of consecutive micro-batches of so many response tokens each, as views."""
        names = [entry.name for entry in fields(self) if getattr(self, entry.name) is not None]
        parts = {name: getattr(self, name).split(list(sizes), _TOKEN_DIMENSION.get(name, 0)) for name in names}
        return [ReferenceOutputs(**{name: parts[name][i] for name in names}) for i in range(len(sizes))]

    def at(self, rows: Tensor) -> ReferenceOutputs:
        """Outputs of some of the response tokens, `rows` [R] int64, alone."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return ReferenceOutputs(**{
            name: value.index_select(_TOKEN_DIMENSION.get(name, 0), rows)
            for name, value in values.items() if value is not None
        })  # fmt: skip


_TOKEN_DIMENSION = {"layer_hidden": 1, "site_means": 1}


@dataclass(frozen=True)
class TokenMasks:
    """One weight per response token for its reward and one for its divergence; used in training only."""

    reward: Tensor
    """[N] float32: m_u. Non-negative, except an unclipped standardised MaPO mask."""
    divergence: Tensor
    """[N] float32: m_d."""
    common: bool = False
    """True where both are one and the same mask: its L1 norm is then charged once."""
    floor: float = 0.0
    """What the weight of a token is that a learned mask rules out."""


@dataclass(frozen=True)
class TokenStats:
    """What the fused operation returns per response token, in nats, float32 or wider."""

    policy_logp: Tensor
    """[N]: log pi(y_t)."""
    reference_logp: Tensor | None = None
    """[N]: log pi_ref(y_t); None where the objective needs no reference."""
    divergence: Tensor | None = None
    """[N]: the expected log-ratio v_t: KL(pi || pi_ref) under the policy, -KL(pi_ref || pi) under the reference; or an
    alpha-divergence."""
    complete: bool = True
    """False where tokens with both masks zero were skipped: their numbers are 0 and mean nothing."""
    log_squares: Tensor | None = None
    """[N]: log of the sum of pi(y)^2 over the vocabulary, without gradient; None where it is not asked for."""
    router_loss: Tensor | None = None
    """[]: what balances the policy's experts over the whole micro-batch, where its configuration asks for it."""
