"""A criterion and a streamer that keep what they are shown."""

import torch
from transformers import StoppingCriteria


class Counted(StoppingCriteria):
    def __init__(self, stop_at):
        self.stop_at, self.seen = stop_at, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.shape)
        return torch.tensor([row[-1] == self.stop_at for row in input_ids.tolist()])


class Columns:
    def __init__(self):
        self.seen, self.ended = [], 0

    def put(self, value):
        self.seen.append(value.tolist())

    def end(self):
        self.ended += 1
