"""Bytes, file descriptors, memory: what touches the operating system, and knows nothing of messages."""
