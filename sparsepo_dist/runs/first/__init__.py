"""What is looked at before anything that computes is loaded."""
