"""EvalPlus as far as it is asked: the functions of its data (version 0.3.1), over files that tests write."""
