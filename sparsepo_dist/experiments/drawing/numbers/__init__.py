"""What runs left behind, grouped over seeds, and how sure it is. Reads files alone."""
