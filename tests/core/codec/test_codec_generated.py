"""Values that hypothesis makes up, and the property that whatever can be written can be read."""

from __future__ import annotations

import datetime
import sys

import pytest

pytest.importorskip("hypothesis")

from codec_matrix import assert_same
from codec_support import blob, decode, roundtrip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vineyard_client.exceptions import VineyardError

quick = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, width=64),
    st.complex_numbers(),
    st.text(st.characters()),
    st.binary(max_size=3000),
    st.binary(max_size=30).map(bytearray),
    st.dates(),
    st.datetimes(
        timezones=st.sampled_from([None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=2))])
    ),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.ip_addresses(),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
    st.sampled_from([int, dict, ..., NotImplemented]),
)
keys = st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.tuples(st.integers(), st.text(max_size=3)))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
    ),
    max_leaves=25,
)


@quick
@given(values)
def test_plain_values_come_back(value):
    assert_same(value, roundtrip(value))


@quick
@given(st.lists(values, max_size=4), st.data())
def test_shared_parts_stay_shared(parts, data):
    chosen = [data.draw(st.sampled_from(parts)) for _ in range(4)] if parts else []
    result = roundtrip([parts, chosen])
    for one in chosen:
        for position, part in enumerate(parts):
            if one is part and isinstance(part, (list, dict, set, bytearray)):
                first = result[0][position]
                assert any(other is first for other in result[1])
                break


@quick
@given(values, st.binary(min_size=1, max_size=40), st.integers(0, 2**16))
def test_a_blob_with_something_written_over_it_is_never_taken_for_another_value(value, scribble, place):
    stored = blob(value)
    before = bytes(stored)
    place %= len(stored)
    stored[place : place + len(scribble)] = scribble[: len(stored) - place]
    try:
        result = decode(stored)
    except VineyardError:
        return
    # Only buffers may differ: they stand outside of the checksum.
    assert before[: len(before) - 3000] == bytes(stored[: len(before) - 3000]) or bytes(stored) == before
    assert type(result) is type(value)


@quick
@given(st.data())
def test_arrays_of_any_dtype_and_shape_come_back(data):
    np = pytest.importorskip("numpy")
    npst = pytest.importorskip("hypothesis.extra.numpy")
    dtypes = st.one_of(npst.scalar_dtypes(), npst.array_dtypes(), npst.nested_dtypes(max_leaves=4))
    if np.__version__ < "1.20":
        dtypes = npst.scalar_dtypes()
    array = data.draw(npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)))
    slices = tuple(
        data.draw(st.sampled_from([slice(None), slice(None, None, -1), slice(1, None, 2)])) for _ in array.shape
    )
    view = array[slices] if slices else array
    if data.draw(st.booleans()):
        view = view.T
    result = roundtrip(view)
    assert type(result) is np.ndarray and result.dtype == view.dtype and result.shape == view.shape
    assert result.tobytes() == view.tobytes()


@quick
@given(st.data())
def test_frames_of_any_columns_come_back(data):
    pytest.importorskip("pandas")
    pytest.importorskip("numpy")
    pdst = pytest.importorskip("hypothesis.extra.pandas")
    import pandas as pd

    kinds = st.sampled_from(["int8", "uint64", "float32", "float64", "bool", "datetime64[ns]", "timedelta64[ns]"])
    columns = [pdst.column(name, dtype=data.draw(kinds)) for name in ("a", "b", "c")]
    frame = data.draw(pdst.data_frames(columns, index=pdst.range_indexes(max_size=6)))
    part = frame.iloc[data.draw(st.integers(0, 2)) :]
    result = roundtrip(part)
    pd.testing.assert_frame_equal(result, part)


@quick
@given(st.data())
def test_arrow_arrays_sliced_anywhere_come_back(data):
    pa = pytest.importorskip("pyarrow")
    from codec_matrix import Unavailable, _pyarrow_arrays, make

    arrays = _pyarrow_arrays()
    name = data.draw(st.sampled_from(sorted(arrays)))
    try:
        array = make(arrays[name])
    except Unavailable:
        return
    start = data.draw(st.integers(0, len(array)))
    length = data.draw(st.integers(0, len(array) - start))
    part = array.slice(start, length)
    result = roundtrip(part)
    assert result.type == part.type
    result.validate(full=True)
    assert result.to_pylist() == part.to_pylist() or result.equals(part)
    again = roundtrip(pa.chunked_array([part, array]).slice(data.draw(st.integers(0, 20))))
    again.validate(full=True)


@pytest.mark.skipif(sys.version_info < (3, 9), reason="zoneinfo")
@quick
@given(st.datetimes(timezones=st.timezones() if sys.version_info >= (3, 9) else st.none()))
def test_datetimes_in_all_zones_come_back(value):
    result = roundtrip(value)
    assert (result, result.fold, result.tzinfo) == (value, value.fold, value.tzinfo)
