"""A recording, read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eft_ext._extras import needs
from eft_ext.dynamics.bound import Trained, g_norm, quotient
from eft_ext.dynamics.losses import SFT, Loss, PreferenceLoss, UserLoss, check_loss
from eft_ext.dynamics.probes import ProbeSet
from eft_ext.dynamics.step_file import read_step
from eft_ext.dynamics.store import read_about, require_pyarrow, step_files

if TYPE_CHECKING:
    import pandas
    import pyarrow

Array = np.ndarray
_LAST = 2**63 - 1  # a step is an int64
_SUM = SFT("sum")


class Recording:
    """Reads the recording of a `Tracker`, also while training still runs.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        about: the content of its run.json.
        probes: the probes that were recorded.

    Raises:
        ValueError: no recording there, or one without a step; a damaged file, by its name.
        ImportError: pyarrow is missing.
    """

    def __init__(self, path: str | Path) -> None:
        require_pyarrow()
        self.path = Path(path)
        about = read_about(self.path) if self.path.is_dir() else None
        self._files = step_files(self.path)
        if about is None or not self._files:
            raise ValueError(f"path: expected a folder with a recording, got {self.path}")
        self.about: dict[str, Any] = about
        file = self.path / "probes.jsonl"
        self.probes = ProbeSet.from_jsonl(file)
        if self.probes.fingerprint != about["probes"]:
            raise ValueError(f"{file}: expected the probes of the recording, got others")
        wanted = list(self.probes.types)
        if about["types"] != wanted:
            got = f"expected {wanted}, the types of its probes, got {about['types']!r}"
            raise ValueError(f"{self.path / 'run.json'}, key 'types': {got}")
        last = max(self._files)
        if last > _LAST:
            raise ValueError(f"{self._files[last]}: expected a step up to {_LAST}, got {last}")

    @cached_property
    def table(self) -> pyarrow.Table:
        """The whole recording, one row for each step, probe and type, in this order."""
        import pyarrow as pa

        tables: list[pyarrow.Table] = []
        for file in self._files.values():
            tables.append(read_step(file, self._rows, tables[0] if tables else None))
        return pa.concat_tables(tables).unify_dictionaries()

    def to_pandas(self, per_token: bool = False) -> pandas.DataFrame:
        """Returns the table as a data frame: columns step, lr, probe, type (a category), and the statistics.

        Args:
            per_token: one row for each token instead, with the statistics of tokens; `token` is its place in the
                response.

        Raises:
            ImportError: pandas is missing.
            ValueError: tokens of a recording made with per_token=False.
        """
        with needs("Recording.to_pandas", "dynamics"):
            import pandas  # noqa: F401
        import pyarrow.compute as pc

        names = [name for name in self.table.column_names if name.startswith("token_")]
        frame = self.table.drop_columns(names).to_pandas()
        if not per_token:
            return frame
        if not names:
            raise ValueError("per_token: expected a recording with statistics of tokens, got one without")
        tokens = frame[["step", "lr", "probe", "type"]].loc[frame.index.repeat(frame["tokens"])]
        tokens["token"] = tokens.groupby(level=0).cumcount()
        for name in names:
            tokens[name.removeprefix("token_")] = pc.list_flatten(self.table.column(name)).to_numpy()
        return tokens.reset_index(drop=True)

    @property
    def types(self) -> list[str]:
        """The types of responses of its probes."""
        return list(self.probes.types)

    @cached_property
    def steps(self) -> Array:
        """The recorded steps, int64, ascending."""
        return np.array(list(self._files))

    @cached_property
    def _rows(self) -> list[tuple[int, str]]:
        return [(number, name) for number, name, _, _ in self.probes.rows()]

    def curve(self, response: str, statistic: str = "log_prob") -> Array:
        """Returns one number for each step and probe, [steps, probes that have this type].

        Args:
            response: the type, e.g. "chosen".
            statistic: one of log_prob, log_prob_mean, argmax_log_prob, argmax_log_prob_mean, log_rest_mean,
                entropy_mean, pi_squared_mean, a_norm, g_norm, tokens.

        Raises:
            ValueError: no such type or column.
        """
        return self._column(statistic)[:, self.rows_of(response)]

    def tokens(self, response: str, statistic: str = "log_prob") -> list[Array]:
        """Returns an array [steps, tokens] for each probe that has this type.

        Args:
            response: the type, e.g. "chosen".
            statistic: one of log_prob, argmax, argmax_log_prob, log_rest, entropy, pi_squared, a_norm, g_norm.

        Raises:
            ValueError: no such type or column, or a recording made with per_token=False.
        """
        name = f"token_{statistic}"
        if name not in self.table.column_names:
            known = [c.removeprefix("token_") for c in self.table.column_names if c.startswith("token_")]
            if not known:
                raise ValueError("recording: expected one made with per_token=True, got one without tokens")
            raise ValueError(f"statistic: expected one of {', '.join(known)}, got {statistic!r}")
        values = self.table.column(name).to_pylist()
        width = len(self._rows)
        return [np.array(values[i::width]) for i in self.rows_of(response)]

    @np.errstate(invalid="ignore")  # where log π is infinite there is no bound: NaN
    def lbk(
        self, observed: str, update: str = "chosen", *, loss: Loss | UserLoss = _SUM, rejected: str = "rejected"
    ) -> Array:
        """Returns ‖Δ log π(observed)‖ / (lr·‖A‖_F·‖G‖), a lower bound of ‖K‖_F.

        Δ is the change between consecutive records, over the tokens of the observed response. ‖A‖ of the observed
        response and ‖G‖ of the loss are those of the earlier record; lr is the sum of the learning rates in between.

        The bound holds to first order in lr, if one SGD step on this one example lies between the records. With many
        steps, rows of other probes, momentum, Adam or clipped gradients it is no bound, only the change per unit of
        push. It is loose, since it sees one row of A's [vocab, vocab]: measured 1/5000 to 1/400 of ‖K‖_F with 48
        tokens, and 2e-6 to 5e-6 of it with the embedded model's 1280 (`python_tests/dynamics/test_bound.py`).

        Args:
            observed: a type. K is between it and the responses trained on, both of them for a preference loss.
            update: the type trained on, or preferred.
            loss: SFT or a preference loss, whose reference is the model of the first record.
            rejected: the other type of a preference loss.

        Returns:
            [records − 1, probes that have the types]; NaN where the learning rate is not known, where lr·‖G‖ is 0, and
            where log π is infinite.

        Raises:
            ValueError: no such type, another loss, a recording made with per_token=False or without learning rates.
            TypeError: not a loss.
        """
        check_loss(loss)
        pair = isinstance(loss, PreferenceLoss)
        if pair and update == rejected:
            raise ValueError(f"rejected: expected another type than {update!r}, which is preferred")
        wanted = {"observed": observed, "update": update} | ({"rejected": rejected} if pair else {})
        both = [i for i, p in enumerate(self.probes) if set(wanted.values()) <= set(p.responses)]
        if not both:
            *most, last = map(repr, wanted.values())
            types = f"{'all of' if pair else 'both'} {', '.join(most)} and {last}"
            raise ValueError(f"{', '.join(wanted)}: expected a probe with {types}, got none")

        def at(response: str, statistic: str) -> Array:
            return self._column(statistic)[:, [self._rows.index((i, response)) for i in both]]

        def trained(response: str) -> Trained:
            return Trained(at(response, "log_prob"), at(response, "g_norm"), at(response, "tokens"))

        log_probs = dict(zip(self.rows_of(observed), self.tokens(observed), strict=True))
        where = [self._rows.index((i, observed)) for i in both]
        moved = np.stack([np.linalg.norm(np.diff(log_probs[i], axis=0), axis=1) for i in where], 1)
        lr = self._column("lr")[1:, :1]
        if lr.size and np.isnan(lr).all():
            raise ValueError("lr: expected a recording with learning rates, got none; pass lr when recording")
        push = at(observed, "a_norm") * g_norm(loss, trained(update), trained(rejected) if pair else None)
        return quotient(moved, lr, push[:-1])

    def _column(self, name: str) -> Array:
        """[steps, rows]."""
        if name not in self.table.column_names or name.startswith("token_") or name == "type":
            known = [c for c in self.table.column_names if not c.startswith("token_") and c != "type"]
            raise ValueError(f"statistic: expected one of {', '.join(known)}, got {name!r}")
        values = self.table.column(name).to_numpy().astype(np.float64)
        return values.reshape(len(self.steps), len(self._rows))

    def rows_of(self, response: str, argument: str = "response") -> list[int]:
        """Places of a type among the rows of each step. Raises ValueError, naming the argument, for an unknown type."""
        rows = [i for i, (_, name) in enumerate(self._rows) if name == response]
        if not rows:
            raise ValueError(f"{argument}: expected one of {', '.join(self.types)}, got {response!r}")
        return rows
