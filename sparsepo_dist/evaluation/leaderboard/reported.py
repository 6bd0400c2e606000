"""What the paper reports on the leaderboard: scores from 0 to 100 by column, and the average as printed there."""

from __future__ import annotations

REPORTED = "reported"
PAPER = "SparsePO, arXiv 2410.05102"
DIALOGUE_SETTING = f"{PAPER}: Pythia 1.4B on Anthropic HH"
ABLATION_SETTING = f"{PAPER}, appendix D: Pythia 410M on argilla/dpo-mix-7k, common mask"

Figures = tuple[float | None, ...]
"""By column of `normalisation.COLUMNS`, then the average; None could not be read in our copy."""

DIALOGUE: dict[str, Figures] = {
    "SFT": (2.87, 0.30, 0.78, 4.02, 1.71, 25.90, 14.97, 7.22),
    "DPO": (2.64, 0.60, 0.00, 3.77, 1.19, 21.46, 10.54, 5.74),
    "TDPO v1": (3.01, 0.53, 0.00, 4.30, 1.50, 20.62, 9.98, 5.71),
    "TDPO v2": (2.65, 0.23, 0.00, 5.87, 1.68, 18.47, 8.32, 5.32),
    "SimPO": (2.10, 0.00, 1.12, 4.36, 1.41, 19.90, 9.24, 5.45),
    "DPOP": (2.71, 0.68, 1.57, 3.85, 1.43, 20.02, 9.06, 5.62),
    "MaPO": (3.60, 0.91, 0.00, 3.94, 1.33, 22.78, 12.57, 6.45),
    "SparsePO, common mask": (3.24, 0.23, 0.00, 6.67, 1.25, 22.78, 12.38, 6.65),
    "SparsePO, independent masks": (4.10, 0.76, 0.00, 3.45, 1.42, 22.78, 11.28, 6.25),
}
"""Table 1."""

ARCHITECTURE: dict[str, Figures] = {
    "all layers, 1 linear": (4.60, 0.91, 1.68, 12.47, 1.57, 21.70, 11.28, 7.74),
    "last layer, 1 linear": (4.34, 0.68, 2.01, 11.74, 1.41, 19.42, 9.61, 7.03),
    "last layer, 2 linears": (4.60, 0.98, 1.68, 11.57, 1.24, 19.30, 9.61, 7.00),
}
"""Table 3."""

WEIGHT_DECAY: dict[str, Figures] = {
    "0": (4.44, 0.83, 1.57, 13.39, 1.48, 22.42, 11.09, 7.89),
    "0.001": (4.41, 0.38, 1.45, 11.47, 1.61, 21.82, 11.09, 7.46),
    "0.01": (4.56, 0.38, 1.12, 14.00, 1.36, 23.02, 12.57, 8.14),
    "0.1": (4.83, 0.68, 1.34, 12.03, 1.66, 21.82, 10.91, 7.61),
    "1": (4.65, 0.68, 1.45, 12.70, 1.64, 21.70, 10.72, 7.65),
}
"""Table 4, of the masks."""

MASKS: dict[str, Figures] = {
    "common": (4.56, 0.38, 1.12, 14.00, 1.36, 23.02, 12.57, 8.14),
    "binary": (None, 1.13, 1.68, 13.03, 1.46, 18.71, 8.50, 7.01),
    "random": (4.84, 0.68, 1.34, 14.49, 1.33, 20.26, 9.61, 7.51),
}
"""Table 5."""
UNREADABLE = "BBH of the binary mask cannot be read in our copy of the paper; its average makes it 4.56."
