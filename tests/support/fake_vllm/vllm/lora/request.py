"""How a request names an adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """`lora_int_id` counts from 1."""

    lora_name: str
    lora_int_id: int
    lora_path: str
