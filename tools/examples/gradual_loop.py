"""A Python loop of your own, without a framework, that is pruned as it trains (Zhu & Gupta, arXiv 1710.01878).

    python gradual_loop.py

Two layers in NumPy learn the sine of a sum; more and more of their weights are cut by |w * sum g|. In PyTorch
`coppice.torch.GradualPruning(model, optimizer, ...)` does all of it in one line. Takes some seconds.
"""

import coppice
import numpy as np

random = np.random.default_rng(1)
weights = {"hidden": random.normal(0, 0.5, (64, 10)).astype(np.float32),
           "out": random.normal(0, 0.1, (1, 64)).astype(np.float32)}  # fmt: skip


def batch(size):
    x = random.normal(size=(size, 10)).astype(np.float32)
    return x, np.sin(x[:, :3].sum(1, keepdims=True))  # the other seven say nothing


def gradients(x, y):
    """The mean squared error, and its gradients."""
    h = np.tanh(x @ weights["hidden"].T)
    error = h @ weights["out"].T - y
    dy = 2 * error / len(x)
    dh = dy @ weights["out"] * (1 - h * h)
    return float((error**2).mean()), {"hidden": dh.T @ x, "out": dy.T @ h}


schedule = coppice.CubicSchedule(final_sparsity=0.8, begin_step=500, end_step=3000, frequency=100)
sums = {f"{name}.sum": np.zeros_like(w) for name, w in weights.items()}
masks = None
for step in range(1, 5001):
    loss, g = gradients(*batch(64))
    for name, w in weights.items():
        w -= 0.05 * g[name]
        sums[f"{name}.sum"] += g[name]
    if schedule.is_due(step):
        result = coppice.prune(weights, sums, criterion="taylor", sparsity=schedule.sparsity(step), masks=masks,
                               include=".*", in_place=True)  # fmt: skip
        masks = result.masks
        for s in sums.values():
            s[:] = 0
    elif masks is not None:
        for name in masks:  # what is cut stays cut
            weights[name][~masks[name]] = 0
    if step % 500 == 0:
        cut = 0 if masks is None else result.report.achieved
        print(f"step {step}: error {np.mean([gradients(*batch(64))[0] for _ in range(20)]):.3f}, {cut:.1%} are zero")

of_noise = np.mean(weights["hidden"][:, 3:] == 0)
print(f"cut of the inputs that say nothing: {of_noise:.1%}, of the others: {np.mean(weights['hidden'][:, :3] == 0):.1%}")
