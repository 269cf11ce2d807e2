"""A recording as a data frame, against its Parquet files read one by one."""

import sys

import numpy as np
import pytest

from eft_ext.dynamics import Recording
from python_tests.dynamics.test_bound import recorded

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pandas")
LRS = (1e-3, None, 2e-3)


def rows_of(path):
    """The rows that were written, as Python sees them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    return [row for file in sorted(path.glob("step-*.parquet")) for row in parquet.read_table(file).to_pylist()]


def test_one_row_for_each_response(tmp_path):
    frame = recorded(tmp_path, LRS).to_pandas()
    rows = rows_of(tmp_path)
    assert list(frame.columns) == [name for name in rows[0] if not name.startswith("token_")]
    for name in frame.columns.drop("lr"):
        assert frame[name].tolist() == [row[name] for row in rows]
    np.testing.assert_array_equal(frame["lr"].to_numpy(), [row["lr"] or np.nan for row in rows])
    assert frame["type"].dtype == "category"
    means = frame.groupby(["type", "step"], observed=True)["log_prob"].mean()
    assert means["seen"].tolist() == [row["log_prob"] for row in rows if row["type"] == "seen"]


def test_one_row_for_each_token(tmp_path):
    frame = recorded(tmp_path, LRS).to_pandas(per_token=True)
    expected = [
        (row["step"], row["probe"], row["type"], i, log_prob, argmax)
        for row in rows_of(tmp_path)
        for i, (log_prob, argmax) in enumerate(zip(row["token_log_prob"], row["token_argmax"], strict=True))
    ]
    columns = ["step", "probe", "type", "token", "log_prob", "argmax"]
    assert list(frame[columns].itertuples(index=False, name=None)) == expected
    assert frame.index.tolist() == list(range(len(expected)))
    assert frame["log_prob"].dtype == np.float32
    assert {"entropy", "log_rest", "a_norm"} < set(frame.columns)


def test_without_statistics_of_tokens(tmp_path):
    recording = recorded(tmp_path, LRS, per_token=False)
    assert len(recording.to_pandas()) == len(rows_of(tmp_path))
    with pytest.raises(ValueError, match="per_token: expected a recording with statistics of tokens, got one without"):
        recording.to_pandas(per_token=True)


def test_without_pandas(monkeypatch, tmp_path):
    recorded(tmp_path, LRS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^Recording.to_pandas needs pandas: pip install 'eft_ext\[dynamics\]'$"):
        Recording(tmp_path).to_pandas()
