"""Rules of single problems, under the real names."""

MBPP_OUTPUT_NOT_NONE_TASKS = ["check_str"]
MBPP_OUTPUT_SET_EQ_TASKS = ["similar_elements"]


def _poly(xs: list[float], x: float) -> float:
    return sum(coefficient * x**power for power, coefficient in enumerate(xs))
