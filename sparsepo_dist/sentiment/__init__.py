"""The paper's sentiment experiment at laptop scale: its prompts, its model, its pairs and its evaluation."""
