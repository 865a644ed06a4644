"""torch: strided tensors in main memory, as views of a storage that travels out of band.

Tensors that share a storage share it again after reading, strides and offsets as they were. Of a storage only the part
between the first and the last byte that any tensor of the value shows is shipped; which part that is, is known when the
whole value has been walked, so the buffer is cut at the end, and where the cut begins travels in a small buffer of its
own, filled at the same time. A tensor that shows less than half of the bytes between its first and its last one, and
shares nothing yet, is made contiguous first: a copy of what it shows.

``requires_grad`` and ``grad`` of leaves are kept; the graph behind other tensors is not, as in torch's own pickling.
Tensors on devices, sparse or quantised ones are refused: the writer says ``.cpu()`` or ``.to_dense()``.
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType

from ..envelope import ALIGNMENT
from ..ops import FILL, MAKE
from ..policy import qualified
from .common import checked, damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

torch: Any = None  # set by install(): this module is loaded for values of torch only (2.0 - 2.13)


class _Storage:
    """A storage while it is written: its memory, and the part of it that the tensors seen so far show."""

    def __init__(self, storage: Any) -> None:
        memory = (ctypes.c_ubyte * storage.nbytes()).from_address(storage.data_ptr())
        memory._storage = storage  # who holds the view holds the storage
        self.memory = memory
        self.first = storage.nbytes()
        self.last = 0
        self.start = bytearray(8)

    def show(self, first: int, last: int) -> None:
        self.first = min(self.first, first)
        self.last = max(self.last, last)


def _reduce_storage(writer: Writer, storage: _Storage) -> Tuple[Any, ...]:
    memory, start = pickle.PickleBuffer(storage.memory), pickle.PickleBuffer(storage.start)
    position = len(writer.buffers)
    writer.out_of_band.update((id(memory), id(start)))
    writer.keep.append((memory, start))

    def cut() -> None:
        # Offsets stay multiples of any element's size.
        first = min(storage.first, storage.last) // ALIGNMENT * ALIGNMENT
        storage.start[:] = first.to_bytes(8, "little")
        writer.buffers[position] = writer.buffers[position][first : storage.last]

    writer.finish.append(cut)
    return MAKE, ("torch.storage", memory, start)


def _make_storage(reader: Reader, memory: Any, start: Any) -> Tuple[Any, int]:
    first = int.from_bytes(start, "little")
    if not len(memory):
        return torch.empty(0, dtype=torch.uint8).untyped_storage(), first
    view = memoryview(memory)
    # A tensor cannot be read-only; read-only memory is for others to see.
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8).untyped_storage(), first


def _extent(tensor: Any) -> Tuple[int, int]:
    """Return the first byte of its storage that a tensor shows, and the one after the last."""
    size = tensor.element_size()
    first = tensor.storage_offset() * size
    if not tensor.numel():
        return first, first
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride()))
    return first, first + (reach + 1) * size


def _reduce_tensor(writer: Writer, tensor: Any) -> Tuple[Any, ...]:
    cls = type(tensor)
    if cls is not torch.Tensor and cls is not torch.nn.Parameter:
        raise UnsafeType(
            f"A {qualified(cls)} cannot be stored: of tensors, this release knows torch.Tensor and torch.nn.Parameter.",
            "Store tensor.as_subclass(torch.Tensor), or a dict of what it consists of.",
            qualified(cls),
        )
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsafeType(
            f"A tensor on {tensor.device} with layout {tensor.layout} cannot be stored, only strided ones in memory.",
            "Store tensor.cpu(), tensor.to_dense() or tensor.dequantize().",
            "torch.Tensor",
        )
    grad = tensor.grad if tensor.is_leaf else None
    plain = tensor.detach().resolve_conj().resolve_neg()
    key = "torch", plain.untyped_storage().data_ptr()
    first, last = _extent(plain)
    if key not in writer.notes and (last - first) > 2 * plain.numel() * plain.element_size():
        plain = plain.clone(memory_format=torch.contiguous_format)
        key = "torch", plain.untyped_storage().data_ptr()
        first, last = _extent(plain)
    storage = writer.notes.get(key)
    if storage is None:
        storage = writer.notes[key] = _Storage(plain.untyped_storage())
    storage.show(first, last)
    kind = "Parameter" if cls is torch.nn.Parameter else "Tensor"
    layout = tuple(plain.shape), tuple(plain.stride()), plain.storage_offset()
    head = "torch.tensor", kind, storage, _dtype_name(plain.dtype), *layout, bool(tensor.requires_grad)
    attributes = dict(getattr(tensor, "__dict__", {}))
    if grad is None and not attributes:
        return MAKE, head
    return MAKE, head, ("torch.tensor", (grad, attributes)), None, None, FILL


def _make_tensor(
    reader: Reader, kind: str, storage: Any, dtype: str, shape: Any, strides: Any, offset: int, requires_grad: bool
) -> Any:
    memory, start = storage
    found = _dtype(dtype)
    tensor = torch.empty(0, dtype=found)
    if type(memory) is not type(tensor.untyped_storage()):
        raise damaged("a tensor has no storage")
    size = tensor.element_size()
    first = checked(offset, int) - start // size
    shape, strides = tuple(shape), tuple(strides)
    if len(shape) != len(strides) or any(checked(part, int) < 0 for part in (*shape, *strides)):
        raise damaged("a tensor has a negative length")
    if all(shape):
        reach = sum([(length - 1) * stride for length, stride in zip(shape, strides)])
        if first < 0 or (first + reach + 1) * size > memory.nbytes():
            raise damaged("a tensor reaches beyond its storage")
    else:
        first = 0
    tensor.set_(memory, first, shape, strides)
    if kind == "Parameter":
        return torch.nn.Parameter(tensor, requires_grad=bool(requires_grad))
    return tensor.requires_grad_() if requires_grad else tensor


def _fill_tensor(reader: Reader, tensor: Any, state: Any) -> None:
    grad, attributes = state
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise damaged("a gradient belongs to no tensor")
    if grad is not None:
        tensor.grad = grad
    vars(tensor).update(checked(attributes, dict))


def _dtype_name(dtype: Any) -> str:
    return str(dtype).partition(".")[2]


def _dtype(name: Any) -> Any:
    found = getattr(torch, checked(name, str), None)
    if not isinstance(found, torch.dtype):
        raise damaged(f"torch has no element type {name!r}")
    return found


def _reduce_dtype(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    return MAKE, ("torch.dtype", _dtype_name(dtype))


def _make_dtype(reader: Reader, name: Any) -> Any:
    return _dtype(name)


def _reduce_size(writer: Writer, size: Any) -> Tuple[Any, ...]:
    return MAKE, ("torch.Size", tuple(size))


def _make_size(reader: Reader, parts: Any) -> Any:
    return torch.Size(parts)


def _reduce_device(writer: Writer, device: Any) -> Tuple[Any, ...]:
    return MAKE, ("torch.device", device.type, device.index)


def _make_device(reader: Reader, kind: str, index: Any) -> Any:
    return torch.device(kind) if index is None else torch.device(kind, index)


def install(table: Table) -> None:
    """Declare the types of torch."""
    global torch
    torch = importlib.import_module("torch")
    table.bases[torch.Tensor] = _reduce_tensor
    table.reducers.update(
        {
            _Storage: _reduce_storage,
            torch.dtype: _reduce_dtype,
            torch.Size: _reduce_size,
            torch.device: _reduce_device,
        }
    )
    table.makers.update(
        {
            "torch.storage": _make_storage,
            "torch.tensor": _make_tensor,
            "torch.dtype": _make_dtype,
            "torch.Size": _make_size,
            "torch.device": _make_device,
        }
    )
    table.filler("torch.tensor", _fill_tensor, "torch.tensor", must=False, holds=True)
