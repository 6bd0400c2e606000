"""What a run will need, before it is launched: memory of a rank, bytes it sends, time of a step; what makes it fit."""
