"""Hybrid position sync for options traders: stream what is active, keep the rest fresh from a durable queue."""
