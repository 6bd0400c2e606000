"""The whole configuration of a run: every room's own, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.engines.config import LoraSettings, ModelConfig, Models, OracleConfig, ReferenceConfig
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks.config import MaskConfig
from sparsepo_dist.objectives.config import ObjectiveConfig
from sparsepo_dist.ops.config import OpsConfig
from sparsepo_dist.training.checkpoints.config import CheckpointConfig
from sparsepo_dist.training.config import TrainingConfig


@dataclass
class RunConfig:
    """A training run. A recipe (YAML) sets any of these; the command line has the last word."""

    ds_config: str = "ds_configs/zero3.json"
    """DeepSpeed's configuration: ZeRO stage, offload, precision, monitors, clipping, batch size."""
    output_dir: str | None = None
    """Folder of the run; runs/OBJECTIVE-DATE-TIME where not given. A folder that holds a run already is refused,
    unless that run is resumed or overwritten."""
    overwrite: bool = False
    """Remove the run that output_dir holds, and start."""
    resume: str | None = None
    """`auto` goes on from the newest sound checkpoint in output_dir, or starts where there is none; else the folder
    of a checkpoint."""
    resume_changed_data: bool = False
    """Go on although the pairs are not those of the checkpoint."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The policy."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Its adapter, where it has one."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The frozen reference."""
    oracle: OracleConfig = field(default_factory=OracleConfig)
    """The model that is for the preference, by which tokens are selected or weighed (sepo, tgdpo, tis_dpo)."""
    oracle_against: OracleConfig = field(default_factory=OracleConfig)
    """The one that is against it (tis_dpo)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Preference pairs."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The loss."""
    masks: MaskConfig = field(default_factory=MaskConfig)
    """Token masks."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimisation."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    """What is saved on the way."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """The fused operation."""

    @property
    def models(self) -> Models:
        """The models, for what they must agree on."""
        return Models(self.model, self.lora, self.reference, self.oracle, self.oracle_against)

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        if self.overwrite and self.resume is not None:
            raise UserError("overwrite removes the run that resume would go on with; choose one")
        if self.checkpoints.final == "best" and not self.training.evaluate_every:
            raise UserError(
                "checkpoints.final: best needs evaluations on the way, but training.evaluate_every is 0, which leaves "
                "the one after the last step; give training.evaluate_every"
            )
        for part in (self.data, self.masks, self.reference, self.training, self.checkpoints, self.ops):
            part.validate()

    @property
    def micro_batches_per_pass(self) -> int:
        """How many micro-batches a frozen model scores at once where its weights come from elsewhere.

        The same on every rank, as its collectives must be.
        """
        return max(1, self.reference.tokens_per_pass // self.data.tokens_per_micro_batch)
