"""One run, from a command line to its folder: parsed, checked, assembled, trained, resumed."""
