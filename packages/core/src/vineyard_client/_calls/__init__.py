"""What the calls of a client do, over the store of this host, other hosts, and objects in vineyard's own types.

``session`` is what all calls of one client share: where its store is, the connection, who else may be asked. A module
for each kind of call: ``writing`` makes objects, and room for them; ``reading`` finds a value, in an order that stands
there; ``housekeeping`` tells what is there, deletes it, and collects what nobody needs. None of them knows how a value
becomes bytes: the client encodes before and decodes after. Of an envelope they know that its buffers may lie elsewhere.

Read ``reading`` first: the order of places.
"""
