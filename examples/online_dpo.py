"""Online DPO with a mixture as the policy, whose small model learns: python examples/online_dpo.py.

Needs `pip install '.[hf]' 'trl>=1.16'`; a minute on a CPU.
"""

from __future__ import annotations

import tempfile
from typing import Any

from polite import QUESTIONS, load_policy, reward
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer


def train(policy: Any, tokenizer: Any) -> list[float]:
    """The mean reward of each step."""
    tokenizer.padding_side = "left"
    options = OnlineDPOConfig(
        tempfile.mkdtemp(),
        max_steps=8,
        learning_rate=1e-3,
        per_device_train_batch_size=8,
        max_new_tokens=32,
        max_length=64,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
    )
    trainer = OnlineDPOTrainer(
        policy, reward_funcs=reward, args=options, train_dataset=QUESTIONS, processing_class=tokenizer
    )
    trainer.train()
    return [step["objective/scores"] for step in trainer.state.log_history if "objective/scores" in step]


if __name__ == "__main__":
    print("reward of each step:", *(f"{mean:.2f}" for mean in train(*load_policy())))
