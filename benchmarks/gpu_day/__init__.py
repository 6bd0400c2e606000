"""A GPU day: all that needs a GPU, unattended and without a network, in four parts of at most ten minutes each."""
