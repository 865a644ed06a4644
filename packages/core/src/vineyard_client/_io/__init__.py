"""Bytes, file descriptors, memory: what touches the operating system, and knows nothing of messages.

``stream`` is what a conversation needs of a socket, ``unix`` and ``tcp`` are the two kinds; ``fds`` owns descriptors,
``mapping`` shows and fills memory of the store, ``pinfile`` holds marks that other processes see, ``deadline`` is the
time that a call may take.

Invariants: every wait has a deadline; a descriptor has one owner from the moment it exists; what maps memory unmaps it
when the last object that shows it is gone, and not before.

Read ``mapping`` first: why a view can never crash Python.
"""
