from eft_ext import EmulatedConfig, EmulatedForCausalLM  # pip install eft_ext

__all__ = ["EmulatedConfig", "EmulatedForCausalLM"]
