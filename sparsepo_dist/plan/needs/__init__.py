"""What a rank needs: memory at rest and in each phase, bytes that it sends; the plan of both."""
