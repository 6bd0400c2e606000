"""Human feedback on summaries of Reddit posts."""
