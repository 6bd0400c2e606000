"""HumanEval and MBPP, and EvalPlus's: programs sampled or imported, executed in our sandbox; pass@k."""
