"""A class of one's own that brings code to its making, so that it needs permission."""

from __future__ import annotations


class Order:
    """An order."""

    def __init__(self, number):
        """Make one."""
        self.number = number

    def __reduce__(self):
        """Have it made anew by its class."""
        return Order, (self.number,)

    def __repr__(self):
        """Show it."""
        return f"Order({self.number})"
