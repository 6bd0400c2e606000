"""The ZeRO-sharded policy, the frozen reference beside it, and how a layout reaches their attention."""
