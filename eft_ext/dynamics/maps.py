"""A recording as records of tokens, which `eft report` shows."""

from __future__ import annotations

from typing import Any

from eft_ext.analysis.record import Record, Token
from eft_ext.dynamics.chats import encode, ending, prompt_text
from eft_ext.dynamics.delta import steps_of_delta
from eft_ext.dynamics.recording import Recording


def delta_records(recording: Recording, response: str, tokenizer: Any) -> list[Record]:
    """Makes a report's record of each probe with this type: δ of each token, split by the steps that made it.

    In a recording that begins at base and ends at tuned, `logprobs` are of "tuned" and "base", so that the report's
    reward is δ. `attribution` has the change between two records, in nats; these sum to δ.

    Args:
        recording: with per-token columns.
        response: a type of its probes.
        tokenizer: the tokenizer of the run.

    Raises:
        ValueError: no such type, a recording made with per_token=False, or another tokenizer.
    """
    stretches = [f"steps {a} to {b}" for a, b in zip(recording.steps, recording.steps[1:], strict=False)]
    probes = [p for p in recording.probes if response in p.responses]
    columns = (recording.tokens(response), recording.tokens(response, "entropy"), steps_of_delta(recording, response))
    records = []
    for probe, log_prob, entropy, added in zip(probes, *columns, strict=True):
        ((_, ids),) = encode(tokenizer, [(probe.prompt, probe.responses[response])], [probe.where])
        ids += ending(tokenizer, recording.about.get("end", True))
        if len(ids) != log_prob.shape[1]:
            raise ValueError(f"tokenizer: expected the run's, which made {log_prob.shape[1]} tokens, got {len(ids)}")
        tokens = [
            Token(
                id=token,
                text=tokenizer.decode([token]),
                logprobs=[float(log_prob[-1, i]), float(log_prob[0, i])],
                entropy=[float(entropy[-1, i]), float(entropy[0, i])],
                special=token in tokenizer.all_special_ids,
                attribution=dict(zip(stretches, map(float, added[:, i]), strict=True)),
            )
            for i, token in enumerate(ids)
        ]
        options = {"response": response, "recording": recording.path.name, "steps": int(recording.steps[-1])}
        prompt = prompt_text(tokenizer, probe.prompt, probe.where)
        records.append(Record(tokens, prompt=prompt, names=["tuned", "base"], options=options))
    return records
