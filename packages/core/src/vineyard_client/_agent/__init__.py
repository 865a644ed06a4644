"""The agent: the one process of a host that keeps its store's values, beside the server that has them.

It saves what is noted as unsaved, loads what is wanted from a bucket, deletes copies, and collects the store's garbage.
``housekeeper`` is its life: start, look, drain, end. ``store`` is what it has of the store, also when the server is
gone; ``saving`` and ``loading`` move one value; ``tidying`` removes what nobody needs; ``door`` answers those who ask;
``starting`` has one started on demand. ``keeper`` is the agent of a store without a tier, which only collects garbage.
``alarm`` is what both wait on. ``metrics`` serves figures to Prometheus.

Invariants: one agent per socket, which the kernel guarantees also when it is killed; what is to be done stands in the
notes, so the next agent goes on where this one ended; it never forks, and no task waits for it but for what it asked.

Read ``housekeeper`` first.
"""
