"""Attention on this CPU: torch's fused kernel and the written out products, side by side, forwards and with the gradient.

    python benchmarks/attention.py [--threads 1] [--rounds 10]

12 heads of 32, as all-MiniLM-L6-v2 has. Milliseconds are the least of the rounds, which take turns.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from taskloom.plugins.backbones.attention import products

SHAPES = ((16, 32), (16, 64), (16, 128), (4, 512))
"""(sequences, tokens of each)"""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}; fused / products ms, ratio")
    for dtype in (torch.bfloat16, torch.float32):
        for count, length in SHAPES:
            tensors = [torch.randn(count, 12, length, 32).to(dtype).requires_grad_() for _ in range(3)]
            told = []
            for name, run in (("forward", _forward), ("with gradient", _with_gradient)):
                fused_s, products_s = _least((scaled_dot_product_attention, _written_out), tensors, run, arguments.rounds)
                told.append(f"{name} {fused_s * 1e3:.2f} / {products_s * 1e3:.2f}, {fused_s / products_s:.1f}")
            print(f"{str(dtype).removeprefix('torch.')} {count} x {length}: {'; '.join(told)}", flush=True)


def _written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return products(query * 32**-0.5, key, value)


def _least(ways: tuple[Attend, Attend], tensors: list[Tensor], run: Callable[..., None], rounds: int) -> list[float]:
    least = [float("inf")] * len(ways)
    for _ in range(rounds + 1):
        for place, way in enumerate(ways):
            began = time.perf_counter()
            run(way, *tensors)
            least[place] = min(least[place], time.perf_counter() - began)
    return least


def _forward(way: Attend, *tensors: Tensor) -> None:
    with torch.inference_mode():
        way(*tensors)


def _with_gradient(way: Attend, *tensors: Tensor) -> None:
    found = way(*tensors)
    torch.autograd.grad(found, tensors, torch.ones_like(found))


if __name__ == "__main__":
    main()
