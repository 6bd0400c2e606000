"""LoRA and QLoRA: adapters on a model, and their files in peft's format."""
