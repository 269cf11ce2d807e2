"""A command of `eft`: its complaints have the names that stand on the command line."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

from eft_ext._text import checked

# Arguments of the library that no option is called after, and the option that they come from.
_ALIASES = {
    "count": "sample",
    "folder": "out",
    "inputs": "prompt",
    "path": "recording",
    "prompts": "prompt",
    "response": "only",
    "tokenizer": "model",
    "types": "only",
}
_NAMED = re.compile(r"(\w+)(?:\[[^\]]*\])?: ")


class Command(TyperCommand):
    """Refuses text that is not Unicode, and says `--top-p` where the library says `top_p`."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command.

        Raises:
            ValueError: what the command raises, beginning with the option.
            OSError: a file is cut short, byte code on a full disk for one.
        """
        for parameter in self.params:
            given = ctx.params.get(parameter.name)
            texts = given if isinstance(given, (list, tuple)) else [given]
            checked(_shown(parameter), [text for text in texts if isinstance(text, str)])
        try:
            return super().invoke(ctx)
        except ValueError as error:
            named = _NAMED.match(str(error))
            options = {parameter.name: _shown(parameter) for parameter in self.params}
            option = options.get(_ALIASES.get(named[1], named[1])) if named else None
            if named is None or option is None:
                raise
            raise ValueError(f"{option}: {str(error)[named.end() :]}") from error
        except EOFError as error:  # which typer takes for Ctrl-D
            raise OSError(f"a file ends too soon: {error}") from error


def _shown(parameter: Any) -> str:
    """`--top-p` for an option, the name of an argument."""
    return str(max(parameter.opts, key=len))
