"""Loading an adapter of PEFT onto its base, by hub id or folder."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from eft_ext._extras import needs
from eft_ext.hf.adapters import adapter_name
from eft_ext.hf.loading.hub import file_options, why

_OTHER_SIZE = re.compile(  # of an embedding, as torch says it: the file's, then the model's
    r"size mismatch for \S*(?:embed|wte|lm_head)\S*: .*?\[(\d+), (\d+)\].*?\[(\d+), \2\]", re.DOTALL
)


def with_adapter(
    name: str,
    under: str,
    base: Any,
    sources: dict[str, str],
    made_for: str | None,
    options: dict[str, Any],
) -> Any:
    """The PEFT model over `base`, the model called `under`, with one more adapter of this name.

    Warns where it was `made_for` a model of another name.
    """
    source, base_source = sources[name], sources[under]
    with needs(f"{name}: the adapter {source!r}", "peft"):
        from peft import PeftModel
    if made_for and os.path.basename(str(made_for)) != os.path.basename(os.path.normpath(base_source)):
        warnings.warn(
            f"{name}: the adapter was made for {made_for!r} and is put on {under}, {base_source!r}", stacklevel=4
        )
    hub = file_options(options)
    try:
        if isinstance(base, PeftModel):
            base.load_adapter(source, adapter_name(name), **hub)
        else:
            base = PeftModel.from_pretrained(base, source, adapter_name(name), **hub)
    except Exception as error:
        said = _other_vocabulary(str(error), under) or why(error)
        raise ValueError(f"{name}: cannot put the adapter {source!r} on {under}: {said}") from error
    return base.eval()


def _other_vocabulary(said: str, under: str) -> str | None:
    """Tells what to do for an adapter whose base had been resized; None where torch complains of something else."""
    found = _OTHER_SIZE.search(said)
    if found is None:
        return None
    theirs, _, ours = found.groups()
    return (
        f"it was trained with {theirs} tokens, and {under} has {ours}: give a {under} that was saved after "
        f"resize_token_embeddings({theirs})"
    )
