"""A recorded step, read and held against what `Tracker` writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow


def read_step(file: Path, rows: Sequence[tuple[int, str]], first: pyarrow.Table | None) -> pyarrow.Table:
    """The table of one step.

    Args:
        rows: number of the probe and type of each response, in order.
        first: the first step's table, None where this is it.

    Raises:
        ValueError: another table than `Tracker` writes; the message names file and column.
        OSError: no such file.
    """
    table = _read(file)
    if len(table) != len(rows):
        raise ValueError(f"{file}: expected a row for each of the probes' {len(rows)} responses, got {len(table)}")
    names = table.column_names
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: expected one column of each name, got {', '.join(names)}")
    for name in names:
        if wrong := _fault(table, name):
            raise ValueError(f"{file}, column {name!r}: {wrong}")
    for i, name in enumerate(("probe", "type")):
        if name in names and table.column(name).to_pylist() != [row[i] for row in rows]:
            raise ValueError(f"{file}, column {name!r}: expected the {name}s of probes.jsonl in order, got others")
    if first is not None and table.schema != first.schema:
        wanted, got = (", ".join(f"{field.name}: {field.type}" for field in t.schema) for t in (first, table))
        raise ValueError(f"{file}: expected a table of {wanted} as the first step's, got {got}")
    if first is not None and "tokens" in names and table.column("tokens") != first.column("tokens"):
        raise ValueError(f"{file}, column 'tokens': expected the first step's, got other numbers")
    return table


def _fault(table: pyarrow.Table, name: str) -> str | None:
    """An error's end, None for a column as it should be."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = values = table.column(name)
    if name == "type":
        text = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        return None if pa.types.is_string(text) else f"expected text, got {column.type}"
    per_token = name.startswith("token_")
    wanted = "lists of numbers" if per_token else "numbers"
    if per_token:
        if not pa.types.is_list(column.type):
            return f"expected {wanted}, got {column.type}"
        values = pc.list_flatten(column)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return f"expected {wanted}, got {column.type}"
    if name != "lr" and (column.null_count or values.null_count):  # the first step has no learning rate
        return f"expected {wanted}, got null among them"
    if not per_token:
        return None
    lengths = pc.list_value_length(column).to_pylist()
    if "tokens" not in table.column_names or lengths != table.column("tokens").to_pylist():
        return "expected lists as long as the column 'tokens' says, got others"
    return None


def _read(file: Path) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return parquet.read_table(file)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: expected a Parquet file ({error})") from None
