"""The frozen reference: in an engine beside the policy's, or as a cache on disk."""
