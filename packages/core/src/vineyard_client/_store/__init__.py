"""One store: a conversation with the vineyardd of this host, and what lies in it.

``connection`` is one registered conversation: requests, file descriptors, memory, pins. ``processes`` gives each
process one of its own. ``identity`` tells which store it is. ``meta`` is what an object looks like in the store,
``objects`` the order of steps that keeps values whole, ``collect`` decides what nobody needs any more. Other hosts are
unknown here: those are ``_hosts``.

Invariants: what is read is pinned first and looked up again; what is written is listed before its bytes are; an id is
never trusted without a token.

Read ``objects`` first: why a reader is never handed memory that is freed.
"""
