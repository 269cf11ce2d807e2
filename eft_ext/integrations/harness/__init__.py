"""The model that `eft_ext.integrations.lm_eval` registers."""
