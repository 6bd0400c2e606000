"""Two nodes and a Slurm on one machine: `make test-cluster`."""
