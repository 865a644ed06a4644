"""vineyard's own typed objects to values and back: pure, nothing run; ``objects`` and ``writing`` touch the store.

Reading takes a metadata tree and copies of its blobs; writing gives a ``Draft``, which says what is to be stored. The
forms are those that vineyard's C++ library and its official Python package write and read (v6d: ``modules/basic/ds``,
``python/vineyard/data``), by library: ``plain``, ``arrays`` (numpy, scipy), ``frames`` (pandas), ``arrow`` (pyarrow,
polars). A library is imported when the first object that needs it comes by.

Why not the official package's own resolvers and builders: they give wrong values without a word. A C++ ``float`` tensor
is read as float64, a big-endian array with its bytes swapped, the float 0.1 is written as 0.10000000149011612, 2**70 as
1, a categorical column as its first element; text columns of pandas 3 cannot be read. Importing the package leaves a
pandas dtype behind that hands type names to ``eval``, and its resolvers unpickle what other clients put.

Invariants:

- What comes out has the values and types that the object's writer meant, or the object is refused.
- What is written reads back equal with the same value types, here and with the official package; anything that has no
  native form is refused by name. ``draft`` lists what a native form does not keep.
- Names of types in a tree are looked up, never evaluated. A pickle is only loaded when the caller allowed
  ``pickle.loads`` by this name.
"""

from __future__ import annotations

from .forms import BLOB, Draft, View, blob_ids
from .values import Unpickle, describe, draft, read

__all__ = ["BLOB", "Draft", "Unpickle", "View", "blob_ids", "describe", "draft", "read"]
