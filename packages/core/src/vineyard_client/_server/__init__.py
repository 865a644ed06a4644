"""vineyardd on this machine: found, run, started once for everybody, ended.

``command`` finds the binary and says how it is run; ``listening`` tells whether somebody is there; ``running`` starts
processes and waits until they answer; ``shared`` has one server per socket path, whoever comes first, and ends it;
``embedded`` is a server that belongs to a program.

Invariants: at a path at most one process starts a server at a time, which the kernel guarantees also when that process
is killed; a server is started in a session of its own, so that what kills a task with its process group does not reach
it; nothing is taken away from a path that another server has.

Read ``shared`` first: one server for everybody.
"""
