"""Executors that place tasks."""
