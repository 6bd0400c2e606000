"""What a run will need, before anything is launched: memory of a rank, bytes it sends, and what makes it fit."""
