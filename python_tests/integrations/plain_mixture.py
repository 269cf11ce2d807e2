"""An independent reference for tools of transformers: three models in plain torch, nothing cached, padded or fused."""

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class PlainMixture(PreTrainedModel, GenerationMixin):
    """large + beta·(tuned − base), whole sequences being read at every step."""

    _supports_sdpa = True

    def __init__(self, models, beta=1.0):
        super().__init__(models[0].config)
        self.members, self.beta = torch.nn.ModuleList(models), beta
        self.columns = min(model.config.vocab_size for model in models)
        self.generation_config = models[0].generation_config

    def tie_weights(self, *args, **kwargs):
        pass

    def forward(self, input_ids, attention_mask=None, **others):
        inputs = {"input_ids": input_ids, "use_cache": False}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
            inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        large, tuned, base = (model(**inputs).logits[..., : self.columns].float() for model in self.members)
        return CausalLMOutputWithPast(logits=large + self.beta * (tuned - base))

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **others):
        return {"input_ids": input_ids, "attention_mask": attention_mask}
