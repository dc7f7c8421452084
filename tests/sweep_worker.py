"""What torchrun runs in test_sweep.py: a small sweep, in which process 1 dies half-way if DIE is 1."""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ministeer.initialize import initialize
from ministeer.model import GPT2, GPT2Config
from ministeer.sweep import sweep

folder = Path(sys.argv[1])
dist.init_process_group("gloo")
rank, calls = dist.get_rank(), 0
generator = torch.Generator().manual_seed(0)
model = initialize(GPT2(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=4, n_head=2)), generator)
prompts = torch.randint(50, (6, 9), generator=generator).tolist()


def score(logits, i):
    global calls
    calls += 1
    if rank == 1 and calls > 15 and os.environ["DIE"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return logits[:, 0]


sweep(model, prompts, score, {"v": torch.ones(16)}, range(5), [0.5, 1.0], path=folder / "rows.jsonl", memory=1e5)
(folder / f"calls.{rank}").write_text(str(calls))
dist.destroy_process_group()
