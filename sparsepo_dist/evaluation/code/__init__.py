"""HumanEval and MBPP: generation by BigCode's harness or lm-eval, execution in our sandbox, pass@k."""
