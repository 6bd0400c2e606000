"""Recipes as files: what they lie on, the method that they are for, the model that another one has to train first."""
