"""`--model eft` of the harness lm-eval: several models as one, by `fused_score` and the batch that is kept full.

    python -m eft_ext.integrations.lm_eval --model eft --model_args pretrained=FOLDER --tasks ...

lm-eval looks for no plug-ins: import this before `simple_evaluate`, or run it in place of lm-eval's own command.
"""

from eft_ext._errors import command, one_line
from eft_ext._extras import needs

with command(__name__), needs("eft_ext.integrations.lm_eval", "lm-eval"):
    from lm_eval.__main__ import cli_evaluate

    from eft_ext.integrations.harness.model import EmulatedLM

__all__ = ["EmulatedLM"]

if __name__ == "__main__":
    with one_line():
        cli_evaluate()
