"""Explore: a page where the picture is turned, and what the networks say and see turns with it."""
