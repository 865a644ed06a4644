"""Placement: prefer to run a task on the host that has most of its input; off unless ``[vineyard] placement`` is on.

Strategy: nothing is scheduled here. When a task is about to be sent to a broker or to Kubernetes, all that it reads has
been written, and each row says how many bytes lie where. ``graph`` says which tasks it reads from, ``shares`` how many
bytes of that each place has, ``rule`` which place is worth a wait and how long. The wish is then expressed in the means
of whoever runs the task: a queue of the host's own (``executors.celery``, ``queues``, ``listen``) or a preferred node
(``pods``).

Invariants:

- It is a wish. Whatever goes wrong here, the task is sent as it would be without, and what went wrong is a warning.
- No task waits for its host longer than moving its input would take, nor longer than ``placement_wait``.
- Only the first try is placed, so what fails because of one host fails there once. - A process that does not use it
  imports none of it but what connects it, and that imports neither Celery, nor kombu, nor Kubernetes at its top.
"""
