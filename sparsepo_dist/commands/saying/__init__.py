"""How what is said reaches people: once a machine, and without control characters."""
