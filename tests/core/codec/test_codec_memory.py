"""Nothing is copied that need not be: proved by addresses and sizes; and nothing is kept alive for nothing."""

from __future__ import annotations

import array
import gc
import subprocess
import sys
import weakref

import pytest
from codec_support import TOKEN, address, blob, decode, inside

from vineyard_client import _codec

SIZE = 200_000


class Mapping(bytearray):
    """Stands for a reader's mapping: it can be watched."""


def numpy_start(array_):
    return array_.__array_interface__["data"][0]


def arrow_buffers(value):
    arrays = value.chunks if hasattr(value, "chunks") else [value]
    return [buffer for array_ in arrays for buffer in array_.buffers() if buffer is not None]


def chunk_addresses(value):
    """Return where the large pieces of an encoded value lie."""
    numpy = pytest.importorskip("numpy")
    encoded = _codec.encode(value, token=TOKEN)
    return [numpy_start(numpy.frombuffer(chunk, "u1")) for chunk in encoded.chunks if len(chunk) > 10_000]


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_handed_on_as_they_are(kind):
    value = kind(SIZE)
    encoded = _codec.encode({"a": value}, token=TOKEN)
    assert any(chunk is value or (isinstance(chunk, memoryview) and chunk.obj is value) for chunk in encoded.chunks)


def test_the_memory_of_arrays_is_not_copied():
    np = pytest.importorskip("numpy")
    base = np.arange(SIZE, dtype="f8").reshape(100, -1)
    for value in (base, base.T, base[10:20], base.reshape(10, 10, -1).transpose(1, 0, 2), np.ma.array(base)):
        start = numpy_start(value if not isinstance(value, np.ma.MaskedArray) else value.data)
        assert start in chunk_addresses(value)
    assert numpy_start(np.broadcast_to(base[0], (50, len(base[0])))) in chunk_addresses(
        np.broadcast_to(base[0], (50, len(base[0])))
    )


def test_the_memory_of_frames_is_not_copied():
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pd.DataFrame(np.arange(SIZE, dtype="f8").reshape(-1, 10))
    assert numpy_start(frame._mgr.blocks[0].values) in chunk_addresses(frame)
    series = pd.Series(np.arange(SIZE), index=np.arange(SIZE) * 2)
    found = chunk_addresses(series)
    assert numpy_start(series.values) in found and numpy_start(series.index.values) in found
    codes = pd.Series(pd.Categorical(["a", "b"] * SIZE))
    assert numpy_start(codes.cat.codes.values) not in (None,)
    assert numpy_start(codes.values.codes) in chunk_addresses(codes)


def test_the_memory_of_arrow_tables_is_not_copied():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": list(range(SIZE)), "s": ["text"] * SIZE})
    found = chunk_addresses(table)
    wanted = [buffer.address for column in table.columns for buffer in arrow_buffers(column) if buffer.size > 10_000]
    assert set(wanted) <= set(found)


def test_the_memory_of_tensors_is_not_copied():
    torch = pytest.importorskip("torch")
    tensor = torch.rand(SIZE)
    assert tensor.data_ptr() in chunk_addresses(tensor)


def test_the_memory_of_polars_frames_is_not_copied():
    pl, np = pytest.importorskip("polars"), pytest.importorskip("numpy")
    pytest.importorskip("pyarrow")
    series = pl.Series("a", np.arange(SIZE))
    start = series.to_frame().to_arrow().column(0).chunk(0).buffers()[1].address
    assert start in chunk_addresses(series.to_frame())


# --- reading --------------------------------------------------------------------------------------------------------


def test_arrays_lie_in_the_blob_and_keep_its_writability():
    np = pytest.importorskip("numpy")
    value = np.arange(SIZE, dtype="f8").reshape(100, -1)
    fixed = value.copy()
    fixed.flags.writeable = False
    stored = blob([value, value.T[::-1].T, fixed, value.astype("M8[s]"), np.ones(SIZE, "i1,f8")])
    found = decode(stored)
    for result in found:
        assert inside(numpy_start(result), result.nbytes, stored)
        assert (numpy_start(result) - address(stored)) % 64 == 0
    assert [result.flags.writeable for result in found] == [True, True, False, True, True]
    found[0][0, 0] = 77
    assert decode(stored)[0][0, 0] == 77, "the array is the memory of the blob, not a copy of it"


def test_frames_lie_in_the_blob_and_can_be_changed():
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pd.DataFrame(np.arange(SIZE, dtype="f8").reshape(-1, 10))
    frame["c"] = pd.Categorical(["a", "b"] * (len(frame) // 2))
    frame["t"] = pd.date_range("2020", periods=len(frame), tz="UTC")
    frame["n"] = pd.array([1, None] * (len(frame) // 2), dtype="Int64")
    stored = blob(frame)
    result = decode(stored)
    assert inside(numpy_start(result._mgr.blocks[0].values), SIZE * 8, stored)
    assert inside(numpy_start(result["c"].values.codes), len(frame), stored)
    assert inside(numpy_start(result["n"].array._data), len(frame) * 8, stored)
    assert inside(
        numpy_start(result["t"].array._ndarray if hasattr(result["t"].array, "_ndarray") else result["t"].array._data),
        len(frame) * 8,
        stored,
    )
    result.loc[0, 0] = -1.0
    result.iloc[1, 1] = -2.0
    assert result.loc[0, 0] == -1.0 and result.iloc[1, 1] == -2.0
    assert frame.loc[0, 0] == 0.0


def test_indexes_lie_in_the_blob():
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    index = pd.MultiIndex.from_arrays([np.arange(SIZE) % 300, np.arange(SIZE)])
    for value in (pd.Index(np.arange(SIZE)), pd.DatetimeIndex(np.arange(SIZE).astype("M8[ns]"))):
        stored = blob(value)
        assert inside(numpy_start(decode(stored).values), SIZE * 8, stored)
    stored = blob(index)
    assert inside(numpy_start(np.asarray(decode(stored).levels[1])), SIZE * 8, stored)


def test_arrow_data_lies_in_the_blob():
    pa = pytest.importorskip("pyarrow")
    table = pa.table(
        {
            "a": list(range(SIZE)),
            "s": ["text"] * SIZE,
            "l": [[1, 2]] * SIZE,
            "d": pa.array(["u" * 2000, "v"] * (SIZE // 2)).dictionary_encode(),
        }
    )
    stored = blob(table)
    for column in decode(stored).columns:
        large = [buffer for buffer in arrow_buffers(column) if buffer.size > 1024]
        assert large and all(inside(buffer.address, buffer.size, stored) for buffer in large)


def test_polars_data_lies_in_the_blob():
    pl, np = pytest.importorskip("polars"), pytest.importorskip("numpy")
    pytest.importorskip("pyarrow")
    stored = blob(pl.DataFrame({"a": np.arange(SIZE)}))
    buffer = decode(stored).to_arrow().column(0).chunk(0).buffers()[1]
    assert inside(buffer.address, buffer.size, stored)


def test_tensors_lie_in_the_blob_and_share_it():
    torch = pytest.importorskip("torch")
    base = torch.rand(SIZE)
    stored = blob([base[10:1000], base.view(100, -1), base[::3]])
    part, whole, strided = decode(stored)
    assert inside(whole.data_ptr(), SIZE * 4, stored)
    whole[0, 12] = 5.0
    assert part[2] == 5.0 and strided[4] == 5.0


def test_sparse_matrices_and_datasets_lie_in_the_blob():
    np, sp = pytest.importorskip("numpy"), pytest.importorskip("scipy.sparse")
    matrix = sp.csr_matrix(np.ones((500, 500)))
    stored = blob(matrix)
    assert inside(numpy_start(decode(stored).data), 250_000 * 8, stored)
    xr = pytest.importorskip("xarray")
    stored = blob(xr.DataArray(np.arange(SIZE), dims="x"))
    assert inside(numpy_start(decode(stored).values), SIZE * 8, stored)


def test_a_memoryview_is_the_memory_of_the_blob():
    stored = blob(memoryview(bytearray(SIZE)))
    result = decode(stored)
    result[5] = 9
    assert inside(address(result), SIZE, stored) and decode(stored)[5] == 9


# --- lifetime -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": [1, "b"], "d": b"x" * 5000}, False),
        (array.array("d", range(5000)), False),
        (memoryview(bytearray(5000)), True),
        ([memoryview(bytearray(10)), bytearray(50_000)], False),
    ],
)
def test_a_value_keeps_the_mapping_alive_only_if_it_refers_to_it(value, kept):
    mapping = Mapping(blob(value))
    watch = weakref.ref(mapping)
    view = memoryview(mapping)
    result = _codec.decode(view, token=TOKEN)
    del mapping, view
    assert (watch() is not None) == kept
    del result
    assert watch() is None


def test_numpy_keeps_the_mapping_alive_as_long_as_any_view_of_it():
    np = pytest.importorskip("numpy")
    mapping = Mapping(blob({"large": np.arange(SIZE), "small": np.arange(5)}))
    watch = weakref.ref(mapping)
    result = _codec.decode(memoryview(mapping), token=TOKEN)
    del mapping
    small, view = result["small"], result["large"][5:10]
    del result
    assert watch() is not None
    del view
    assert watch() is None and small.sum() == 10


@pytest.mark.parametrize("library", ["pandas", "pyarrow", "polars", "torch", "scipy", "xarray"])
def test_every_library_keeps_the_mapping_alive_and_lets_it_go(library):
    pytest.importorskip(library)
    np = pytest.importorskip("numpy")
    pytest.importorskip("pyarrow" if library == "polars" else "numpy")
    make = {
        "pandas": lambda lib: lib.DataFrame({"a": np.arange(SIZE)}),
        "pyarrow": lambda lib: lib.table({"a": np.arange(SIZE)}),
        "polars": lambda lib: lib.DataFrame({"a": np.arange(SIZE)}),
        "torch": lambda lib: lib.arange(SIZE),
        "scipy": lambda lib: __import__("scipy.sparse").sparse.csr_matrix(np.ones((300, 300))),
        "xarray": lambda lib: lib.DataArray(np.arange(SIZE)),
    }[library]
    mapping = Mapping(blob(make(__import__(library))))
    watch = weakref.ref(mapping)
    result = _codec.decode(memoryview(mapping), token=TOKEN)
    del mapping
    gc.collect()
    assert watch() is not None
    del result
    gc.collect()
    assert watch() is None


def test_encoding_leaves_nothing_behind():
    """The pickler's memo and the writer's notes go at once, not when the garbage collector comes by."""

    class Watched(bytearray):
        pass

    np = pytest.importorskip("numpy")
    memory = Watched(SIZE)
    watch = weakref.ref(memory)
    value = {"a": np.frombuffer(memory, "f8"), "b": [1]}
    gc.disable()
    try:
        encoded = _codec.encode(value, token=TOKEN)
        del memory, value
        assert watch() is not None, "the chunks show the value's memory"
        del encoded
        assert watch() is None
    finally:
        gc.enable()


# --- slices ---------------------------------------------------------------------------------------------------------


def _slices():
    np = pytest.importorskip("numpy")
    base = np.arange(SIZE, dtype="f8")
    yield "numpy", base[10:20]
    yield "numpy, strided", base[:100:10]
    yield "numpy, objects", base.astype(object)[5:10]


def test_a_slice_ships_its_slice():
    for name, value in _slices():
        assert _codec.encode(value, token=TOKEN).nbytes < 2000, name


def test_a_slice_of_a_memoryview_ships_its_slice():
    assert _codec.encode(memoryview(bytes(SIZE))[10:20], token=TOKEN).nbytes < 500


def test_slices_of_frames_ship_their_slice():
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(SIZE), "b": np.arange(SIZE) / 2, "s": ["text"] * SIZE})
    frame["c"] = pd.Categorical(frame["s"])
    frame["n"] = pd.array(frame["a"], dtype="Int64")
    whole = _codec.encode(frame, token=TOKEN).nbytes
    for part in (
        frame.iloc[10:20],
        frame.iloc[::20_000],
        frame["a"].iloc[5:10],
        frame.index[5:8],
        frame[["a"]].iloc[:5],
    ):
        assert _codec.encode(part, token=TOKEN).nbytes < 10_000 < whole


def test_slices_of_arrow_data_ship_their_slice():
    pa = pytest.importorskip("pyarrow")
    from codec_matrix import Unavailable, _pyarrow_arrays, make

    for name, make_array in _pyarrow_arrays().items():
        try:
            array_ = make(make_array)
        except Unavailable:
            continue
        if name in ("null", "dictionary", "dictionary, ordered", "dictionary in a list") or "union" in name:
            continue
        many = pa.concat_arrays([array_] * 300) if hasattr(array_, "storage") is False else array_
        whole = _codec.encode(many, token=TOKEN).nbytes
        part = _codec.encode(many.slice(len(many) // 2, len(many) // 30), token=TOKEN).nbytes
        assert part < 2500 or part < whole / 10, (name, part, whole)
    table = pa.table({"a": list(range(SIZE)), "s": ["text"] * SIZE})
    assert _codec.encode(table.slice(50, 10), token=TOKEN).nbytes < 5000
    assert _codec.encode(table.column("s").slice(50, 10), token=TOKEN).nbytes < 2000


def test_chunks_that_share_a_dictionary_ship_it_once():
    pa = pytest.importorskip("pyarrow")
    array_ = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 50, pa.int8()), pa.array(["x" * 50_000, "y"]))
    chunked = pa.chunked_array([array_.slice(i * 10, 10) for i in range(10)])
    assert _codec.encode(chunked, token=TOKEN).nbytes < 60_000


def test_slices_of_polars_frames_and_tensors_ship_their_slice():
    np = pytest.importorskip("numpy")
    try:
        import polars as pl
    except ImportError:
        pass
    else:
        frame = pl.DataFrame({"a": np.arange(SIZE), "s": ["text"] * SIZE})
        assert _codec.encode(frame.slice(50, 10), token=TOKEN).nbytes < 5000
        assert _codec.encode(frame["s"].slice(50, 10), token=TOKEN).nbytes < 5000
    torch = pytest.importorskip("torch")
    tensor = torch.rand(SIZE)
    assert _codec.encode(tensor[5000:5300], token=TOKEN).nbytes < 2500
    assert _codec.encode(tensor.view(400, -1)[:, 3], token=TOKEN).nbytes < 4000
    assert _codec.encode([tensor[5000:5300], tensor[5200:5600]], token=TOKEN).nbytes < 4000


# --- imports --------------------------------------------------------------------------------------------------------


def test_importing_the_codec_imports_no_library():
    code = (
        "import sys; from vineyard_client import _codec\n"
        "stored = bytearray(b''.join(_codec.encode([1, {'a': 'b'}], token=bytes(16)).chunks))\n"
        "_codec.decode(memoryview(stored), token=bytes(16))\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'polars', 'scipy', 'torch', 'xarray', 'decimal', 'pathlib', 'uuid',"
        " 'random', 'zoneinfo', 'dataclasses', 'inspect'}\n"
        "before = set(sys.argv[1].split(','))\n"
        "print(sorted((heavy & set(sys.modules)) - before))"
    )
    before = "import sys; import vineyard_client.exceptions; print(','.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", before], capture_output=True, text=True, check=True).stdout.strip()
    result = subprocess.run([sys.executable, "-c", code, loaded], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]", result.stdout


def test_a_value_brings_in_no_library_that_it_does_not_come_from():
    pytest.importorskip("numpy")
    code = (
        "import sys; import numpy; from vineyard_client import _codec\n"
        "stored = bytearray(b''.join(_codec.encode(numpy.arange(5), token=bytes(16)).chunks))\n"
        "_codec.decode(memoryview(stored), token=bytes(16))\n"
        "print(sorted({'pandas', 'pyarrow', 'polars', 'scipy', 'torch', 'xarray'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]", result.stdout


def test_preloading_imports_no_library_but_takes_those_that_are_there():
    code = (
        "import sys; import decimal; from vineyard_client import _codec\n"
        "_codec.preload()\n"
        "from vineyard_client._codec.adapters import table\n"
        "print('decimal' in table._loaded, sorted({'numpy', 'pandas', 'uuid', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True []"


def test_a_library_in_a_strange_version_is_left_for_later(monkeypatch):
    from vineyard_client._codec.table import table
    from vineyard_client.exceptions import UnsupportedVersion

    monkeypatch.setitem(table.adapters, "sys", ("vineyard_client._codec.adapters.common", "no_such_function"))
    _codec.preload()
    with pytest.raises(UnsupportedVersion, match="Values of sys cannot be stored"):
        table.load("sys")


def test_a_missing_library_is_named():
    from codec_support import blob_of, pickled

    from vineyard_client._codec.table import table
    from vineyard_client.exceptions import UnsupportedVersion

    table.adapters["nosuchlibrary"] = ("vineyard_client._codec.adapters.common", "no_such_function")
    try:
        with pytest.raises(
            UnsupportedVersion, match=r"Values of nosuchlibrary cannot be stored or read here: it is not installed"
        ):
            decode(blob_of(pickled(("MAKE", ("nosuchlibrary.Thing",)))))
    finally:
        del table.adapters["nosuchlibrary"]


GARBAGE = """
import gc
import io
import vineyard_client as vc

def of_bytearray(): return memoryview(bytearray(100_000))
def of_bytes(): return memoryview(b"x" * 100_000)
def of_a_part(): return memoryview(b"x" * 100_000)[5:90_000]
def of_a_file(): return io.BytesIO(b"x" * 100_000).getbuffer()

def refused(view):
    kept = None
    try:
        vc.dumps([view, lambda: 0])
    except vc.UnsafeType as error:
        kept = error

def dropped(view):
    kept = None
    try:
        encoded = vc.encode([view])
        raise KeyError
    except KeyError as error:
        kept = error

for make in (of_bytearray, of_bytes, of_a_part, of_a_file):
    for lose in (refused, dropped):
        for turn in range(9):
            lose(make())
            if turn % 3 == 0:
                gc.collect()
print("alive")
"""


def test_garbage_with_a_view_in_it_does_not_crash_the_interpreter():
    """An exception that is kept in a variable is a cycle with all that was being encoded: python/cpython#77894."""
    done = subprocess.run([sys.executable, "-c", GARBAGE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
