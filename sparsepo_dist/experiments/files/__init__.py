"""An experiment as a file, and the stages that it becomes."""
