"""Programs for the problems of MBPP, told apart by their unit tests."""
