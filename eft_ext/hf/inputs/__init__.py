"""A call as users write it: prompts, masks, token ids, seeds, and settings that are refused."""
