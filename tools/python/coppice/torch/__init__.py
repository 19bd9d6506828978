"""PyTorch: gradients of your own training loop, pruning in place, and keeping what was pruned pruned.

    with coppice.torch.record(model, optimizer) as record:
        for x, y in batches:                # your loop, as it is
            optimizer.zero_grad(); loss(model(x), y).backward(); optimizer.step()
    result = coppice.torch.prune_(model, record, criterion="fisher", sparsity=0.9)
    optimizer = coppice.torch.MaskedOptimizer(optimizer, model, result.masks)   # train on: zeros stay zeros

Parameter objects are never replaced, so `nn.LSTM`'s and `nn.GRU`'s flat weights, tied parameters, optimizers,
`copy.deepcopy`, pickle and `state_dict` go on as before.
"""

from .masks import apply_masks_, masks_of, register_masks, remove_masks
from .optimizer import MaskedOptimizer
from .pruning import prune_
from .record import Record, record
from .schedule import GradualPruning

__all__ = [
    "GradualPruning",
    "MaskedOptimizer",
    "Record",
    "apply_masks_",
    "masks_of",
    "prune_",
    "record",
    "register_masks",
    "remove_masks",
]
