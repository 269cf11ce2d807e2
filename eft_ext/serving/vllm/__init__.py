"""Emulated fine-tuning in vLLM: the checkpoints of `eft pack`, served by an unchanged vLLM (docs/guides/vllm.md).

vLLM finds `register` and `processor.RequestParameters` by their entry points; nothing here is called by hand.
"""

from __future__ import annotations

from functools import cache


@cache
def register() -> None:
    """Makes the architecture known: the entry point of `vllm.general_plugins`, called in each of vLLM's processes.

    It never stops an engine of another model: with a vLLM that it does not know it warns.
    """
    from eft_ext.serving.vllm import names, server_gone

    server_gone.end_with_server()
    try:
        from eft_ext.config import ARCHITECTURE
        from eft_ext.serving.vllm.checks import LOAD_FORMAT, READS
        from eft_ext.serving.vllm.loader import EmulatedLoader
        from eft_ext.serving.vllm.start import StartChecks

        for given in READS:
            names.register_model_loader(LOAD_FORMAT + given)(EmulatedLoader)
        names.ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
        names.MODELS_CONFIG_MAP[ARCHITECTURE] = StartChecks
        names.WeightTransferEngineFactory.register_engine("eft_folder", f"{__name__}.transfer", "FolderTransfer")
    except Exception as error:  # whatever it is, other models' engines have to go on
        names.warn(f"checkpoints of several models cannot be served: {error}")
