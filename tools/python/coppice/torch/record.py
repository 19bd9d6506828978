"""Statistics of gradients, and norms of inputs, over a user's own training loop."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterable, Optional, Sequence, Union

import torch

from .._coppice import Error
from ..files import GradientStatistics, save

_STATISTICS = ("sum", "absolute", "squared")


class Record:
    """What `record` gives: sums over gradients that it was shown, and over inputs that passed.

    One gradient g is what stands in `.grad` when the optimizer steps, or when `step()` is called. So micro-batches whose
    gradients are added up before a step are one g, of their sum; to count each for itself, zero the gradients and call
    `step()` after every backward pass. Clipping that was done before counts. A parameter without a gradient adds 0.
    Sums are float32 (of float64 parameters float64), on the parameter's device.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optional[torch.optim.Optimizer] = None,
        *,
        statistics: Sequence[str] = _STATISTICS,
        activations: bool = False,
    ):
        unknown = set(statistics) - set(_STATISTICS)
        if unknown:
            raise Error(f"statistics hold {sorted(unknown)[0]!r}; expected some of {', '.join(_STATISTICS)}")
        self.count = 0
        """Gradients so far."""
        self._parameters = dict(model.named_parameters())
        self._statistics = tuple(statistics)
        self._sums: dict[str, torch.Tensor] = {}
        self._squares: dict[str, torch.Tensor] = {}  # of inputs, by weight
        self._model, self._optimizer, self._activations = model, optimizer, activations
        self._hooks: list[Any] = []

    def __enter__(self) -> Record:
        if self._optimizer is not None:
            self._hooks.append(self._optimizer.register_step_pre_hook(lambda *_: self.step()))
        if self._activations:
            self._watch_inputs()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the hooks off; what was recorded stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Counts the gradients that are there."""
        for name, parameter in self._parameters.items():
            g = parameter.grad
            if g is None:
                continue
            g = g.to_dense() if g.is_sparse else g
            wide = torch.float64 if g.dtype == torch.float64 else torch.float32
            g = g.to(wide)
            for statistic in self._statistics:
                key = f"{name}.{statistic}"
                if key not in self._sums:
                    self._sums[key] = torch.zeros_like(g, memory_format=torch.contiguous_format)
                total = self._sums[key]
                if statistic == "sum":
                    total.add_(g)
                elif statistic == "absolute":
                    total.add_(g.abs())
                else:
                    total.add_(g * g)
        self.count += 1

    def reset(self) -> None:
        """Forgets the gradients, not the norms."""
        self._sums.clear()
        self.count = 0

    def statistics(self) -> GradientStatistics:
        """NAME.sum, NAME.absolute, NAME.squared of every parameter that ever had a gradient. Raises coppice.Error
        naming the first that is not finite, and when nothing was recorded."""
        if self.count == 0:
            raise Error("no gradient was recorded; expected steps of the optimizer, or calls of step(), in the context")
        for name, total in self._sums.items():
            if not torch.isfinite(total).all():
                raise Error(f"'{name}' of {self.count} gradients is not finite; expected finite gradients")
        return GradientStatistics(self._sums, self.count)

    def norms(self) -> dict[str, torch.Tensor]:
        """By weight: the Euclidean norm of each of its inputs over everything that passed, float32 [in]: what criterion
        "wanda" takes as activations. Raises coppice.Error when nothing passed."""
        if not self._squares:
            raise Error("no inputs were recorded; expected activations=True, and forward passes in the context")
        return {name: total.clamp(min=0).sqrt().float().cpu() for name, total in self._squares.items()}

    def save(self, path: Union[str, os.PathLike], *, force: bool = False) -> None:
        """Writes one file for `coppice prune`: `--gradients` reads its sums, `--activations` its norms ("NAME.norm")."""
        tensors: dict[str, Any] = {}
        if self.count or not self._squares:
            tensors.update(self.statistics())
        if self._squares:
            tensors.update({f"{name}.norm": norm for name, norm in self.norms().items()})
        save(path, tensors, {"count": str(self.count)}, force=force)

    # --- inputs

    def _watch_inputs(self) -> None:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for module in self._model.modules():
            watch: Optional[Callable[..., None]] = None
            if isinstance(module, torch.nn.Linear):
                watch = _watch_linear
            elif isinstance(module, torch.nn.RNNBase):
                watch = _watch_recurrent
            elif isinstance(module, torch.nn.RNNCellBase):
                watch = _watch_cell
            elif isinstance(module, torch.nn.MultiheadAttention):
                watch = _watch_attention
            if watch is None:
                continue

            def add(weight: torch.Tensor, squares: torch.Tensor) -> None:
                name = names.get(id(weight))
                if name is not None:
                    self._squares[name] = self._squares.get(name, 0) + squares

            def hook(module: Any, args: Any, kwargs: Any, output: Any, watch: Any = watch, add: Any = add) -> None:
                with torch.no_grad():
                    watch(module, args, kwargs, output, add)

            self._hooks.append(module.register_forward_hook(hook, with_kwargs=True))


def record(
    model: torch.nn.Module,
    optimizer: Optional[torch.optim.Optimizer] = None,
    *,
    statistics: Iterable[str] = _STATISTICS,
    activations: bool = False,
) -> Record:
    """A context that adds up gradients over your own training loop: Σg, Σ|g| and Σg², of every parameter.

    With an `optimizer`, each of its steps is a gradient; without, call `step()` after each backward pass. `statistics`
    names those that are wanted, each of which costs one array a parameter. With `activations`, the norms of the inputs
    of weights are recorded too, for Wanda: of nn.Linear; of nn.RNN, nn.LSTM and nn.GRU (inputs and hidden states; stacked
    layers are run once more for it, without dropout) and their cells; of nn.MultiheadAttention only the packed
    projection of self-attention. Other weights have no norms: exclude them, or include those that have some.
    """
    return Record(model, optimizer, statistics=tuple(statistics), activations=activations)


def _squares(x: torch.Tensor) -> torch.Tensor:
    """Σ x² over all but the last axis, float64."""
    return x.detach().reshape(-1, x.shape[-1]).double().square().sum(0)


def _watch_linear(module: Any, args: Any, kwargs: Any, output: Any, add: Callable[..., None]) -> None:
    add(module.weight, _squares(args[0] if args else kwargs["input"]))


def _watch_attention(module: Any, args: Any, kwargs: Any, output: Any, add: Callable[..., None]) -> None:
    inputs = [*args, *(kwargs[k] for k in ("query", "key", "value") if k in kwargs)][:3]
    if module.in_proj_weight is not None and inputs[0] is inputs[1] is inputs[2]:
        add(module.in_proj_weight, _squares(inputs[0]))


def _watch_cell(module: Any, args: Any, kwargs: Any, output: Any, add: Callable[..., None]) -> None:
    x = args[0] if args else kwargs["input"]
    state = args[1] if len(args) > 1 else kwargs.get("hx")
    h = state[0] if isinstance(state, tuple) else state
    add(module.weight_ih, _squares(x))
    zeros = torch.zeros(module.hidden_size, dtype=torch.float64, device=x.device)
    add(module.weight_hh, zeros if h is None else _squares(h))


def _watch_recurrent(module: Any, args: Any, kwargs: Any, output: Any, add: Callable[..., None]) -> None:
    x = args[0] if args else kwargs["input"]
    state = args[1] if len(args) > 1 else kwargs.get("hx")
    directions = 2 if module.bidirectional else 1
    y, last = output
    for layer in range(module.num_layers):
        ends = [f"_l{layer}" + ("_reverse" if d else "") for d in range(directions)]
        first = layer * directions
        states = state if isinstance(state, tuple) else (state,)
        at_layer = None if state is None else tuple(s[first : first + directions] for s in states)
        if module.num_layers > 1:  # what lies between the layers is not to be seen from outside
            y, last = _one_layer(module, layer, x, at_layer)
        h_n = last[0] if isinstance(last, tuple) else last
        data, inputs = (z.data if isinstance(z, torch.nn.utils.rnn.PackedSequence) else z for z in (y, x))
        width = data.shape[-1] // directions
        for d, end in enumerate(ends):
            add(getattr(module, "weight_ih" + end), _squares(inputs))
            # The inputs of the recurrent matrix: every output but the last, and the initial state.
            hidden = _squares(data[..., d * width : (d + 1) * width]) - _squares(h_n[d])
            if at_layer is not None:
                hidden = hidden + _squares(at_layer[0][d])
            add(getattr(module, "weight_hh" + end), hidden)
        x = y


def _one_layer(module: Any, layer: int, x: Any, state: Any) -> Any:
    """One layer of a stack, by itself."""
    size = (x.data if isinstance(x, torch.nn.utils.rnn.PackedSequence) else x).shape[-1]
    options = {"proj_size": module.proj_size} if module.mode == "LSTM" else {}
    if module.mode.startswith("RNN"):
        options["nonlinearity"] = module.mode[4:].lower()
    kind = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}.get(module.mode, torch.nn.RNN)
    with torch.device("meta"):
        alone = kind(size, module.hidden_size, 1, bias=module.bias, batch_first=module.batch_first,
                     bidirectional=module.bidirectional, **options)  # fmt: skip
    weights = {name: getattr(module, name.replace("_l0", f"_l{layer}")) for name, _ in alone.named_parameters()}
    if state is not None and module.mode != "LSTM":
        state = state[0]
    return torch.func.functional_call(alone, weights, (x, state))
