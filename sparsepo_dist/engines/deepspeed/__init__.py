"""DeepSpeed: its configuration, the ranks it joins, the part of a checkpoint that is its own."""
