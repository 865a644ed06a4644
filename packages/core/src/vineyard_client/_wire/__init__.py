"""Vineyard's protocol without I/O: messages in, bytes out, and back.

Nothing here opens, reads or waits. ``framing`` cuts a byte stream into messages, ``messages`` has one class for each
request with the reply it expects, ``status`` turns the server's error codes into exceptions. The reference is v6d's
``src/common/util/protocols.cc`` and ``src/server/async/socket_server.cc``.
"""
