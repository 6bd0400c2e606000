"""The run's models, counted without their data: parameters, what they keep and gather, the head."""
