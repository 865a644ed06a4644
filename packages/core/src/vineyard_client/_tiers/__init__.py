"""Where values last: folders and buckets of envelopes, byte for byte as in the store, and notes of what is there.

``contract`` is what a tier is, ``folder`` and ``buckets`` are the two kinds, ``urls`` opens one by its URL, ``keys``
says how an object of a tier is called. ``notes`` is the folder beside the socket that knows which value of the store is
saved, and which is not. ``spill`` decides what leaves a full store. ``doorbell`` asks the agent, which is the one
process of a host that touches buckets.

Invariants: an object of a tier appears whole or not at all, and is never truncated; a missing one is no error to who
deletes it, and an error to who reads it; what is not saved has a note that says so; a library for buckets is imported
inside ``buckets`` alone, and only in the agent.

Read ``notes`` first: why no copy is left behind, and nothing is lost silently.
"""
