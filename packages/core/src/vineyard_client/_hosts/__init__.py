"""Other hosts: find a value there, bring it here once, and forget it when it is gone.

``remote`` is a conversation over TCP, ``transfer`` moves one value, ``replicas`` knows which values of other hosts have
a copy here, ``migration`` puts the three together.

Invariants: a host is asked only when a reference or the cluster's metadata lead there, and ``peers`` allows it; a value
is copied once per host, however many ask; an original is never changed from here, only read, labelled or deleted.

Read ``migration`` first, then ``replicas``: once per host.
"""
