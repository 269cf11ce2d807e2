"""GRPO with a mixture as the policy, whose small model learns: python examples/grpo.py.

Needs `pip install '.[hf]' 'trl>=1.16'`; a minute on a CPU.
"""

from __future__ import annotations

import tempfile
from typing import Any

from polite import QUESTIONS, load_policy, reward
from trl import GRPOConfig, GRPOTrainer


class Trainer(GRPOTrainer):
    """Takes log-probabilities from logits: TRL would make them of hidden states and one matrix, which there is not."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Any, ...]:
        out = model(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep + 1)
        log_probs = (out.logits[:, :-1] / self.temperature).log_softmax(dim=-1)
        chosen = log_probs.gather(-1, input_ids[:, -logits_to_keep:, None]).squeeze(-1)
        entropies = -(log_probs.exp() * log_probs).sum(dim=-1) if compute_entropy else None
        return chosen, entropies, None


def train(policy: Any, tokenizer: Any) -> list[float]:
    """The mean reward of each step."""
    options = GRPOConfig(
        tempfile.mkdtemp(),
        max_steps=8,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=32,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = Trainer(policy, reward, options, QUESTIONS, processing_class=tokenizer)
    trainer.train()
    return [step["reward"] for step in trainer.state.log_history if "reward" in step]


if __name__ == "__main__":
    print("reward of each step:", *(f"{mean:.2f}" for mean in train(*load_policy())))
