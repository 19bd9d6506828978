"""coppice.torch against PyTorch itself."""

import copy
import io
import pickle

import coppice
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import coppice.torch  # noqa: E402

from conftest import bits_of, cut, reference_masks  # noqa: E402

nn = torch.nn


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)
    torch.set_num_threads(1)  # the models are tiny


class Tagger(nn.Module):
    """A user's own model: embedding, stacked bidirectional recurrence, a projection."""

    def __init__(self, kind=nn.LSTM, layers=2, bidirectional=True):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.rnn = kind(6, 5, num_layers=layers, bidirectional=bidirectional, batch_first=True)
        self.out = nn.Linear(10 if bidirectional else 5, 4)

    def forward(self, x):
        return self.out(self.rnn(self.embedding(x))[0])


def loss_of(model, batch=8):
    x = torch.randint(0, 20, (batch, 7))
    return nn.functional.cross_entropy(model(x).flatten(0, 1), torch.randint(0, 4, (batch * 7,)))


def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [0, 1, 31, 33, 257])
def test_tensors_of_every_type_are_cut_where_they_lie(dtype, size):
    tensor = torch.randn(size, dtype=torch.float64).mul(4).round().div(4).to(getattr(torch, dtype))
    before = tensor.clone()
    want = reference_masks({"0": tensor.abs().double().numpy()}, 0.55)["0"]
    address = tensor.data_ptr()
    result = coppice.prune(tensor, criterion="magnitude", sparsity=0.55, in_place=True)
    assert result.tensors is tensor and tensor.data_ptr() == address
    raw = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    assert np.array_equal(result.mask, want)
    assert np.array_equal(bits_of(tensor.view(raw).numpy()), cut(before.view(raw).numpy(), want))
    copied = coppice.prune(before, criterion="magnitude", sparsity=0.55)
    assert torch.equal(copied.tensors, tensor) and copied.tensors.dtype == tensor.dtype
    assert copied.masks == result.masks


def test_views_that_are_not_contiguous():
    whole = torch.randn(20, 30)
    want = coppice.prune(whole.t().contiguous(), criterion="magnitude", sparsity=0.5)
    coppice.prune(whole.t(), criterion="magnitude", sparsity=0.5, in_place=True)
    assert torch.equal(whole.t(), want.tensors)


def test_a_module_is_pruned_as_its_file(program, tmp_path):
    model = Tagger()
    coppice.save(tmp_path / "w.safetensors", dict(model.named_parameters()))
    program("prune", tmp_path / "w.safetensors", "--criterion", "magnitude", "--sparsity", "0.8", "--scope", "gate",
            "-o", tmp_path / "p.safetensors")  # fmt: skip
    result = coppice.torch.prune_(model, criterion="magnitude", sparsity=0.8, scope="gate")
    want = coppice.load(tmp_path / "p.safetensors")
    for name, parameter in model.named_parameters():
        assert np.array_equal(bits_of(parameter.detach().numpy()), bits_of(want[name])), name
    assert result.masks == coppice.Masks.load(tmp_path / "p.safetensors.masks.safetensors")
    assert {t.name for t in result.report.tensors if t.pruned} == {
        f"rnn.weight_{k}_l{i}{end}" for k in ("ih", "hh") for i in (0, 1) for end in ("", "_reverse")
    }


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_flat_weights_stay_flat(kind):
    """pytorch#33618, #65688: what replaces Parameter objects breaks flat weights, copies and state."""
    model = Tagger(kind)
    identities = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    coppice.torch.prune_(model, criterion="magnitude", sparsity=0.5, buffers=True)
    assert {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()} == identities
    for flat, name in zip(model.rnn._flat_weights, model.rnn._flat_weights_names):
        assert flat is getattr(model.rnn, name)
    x = torch.randint(0, 20, (3, 7))
    want = model(x)
    model.rnn.flatten_parameters()
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    fresh = Tagger(kind)
    coppice.torch.prune_(fresh, criterion="random", sparsity=0.5, buffers=True)
    fresh.load_state_dict(model.state_dict())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    plain = Tagger(kind)
    plain.load_state_dict(torch.load(buffer, weights_only=True), strict=False)
    for other in (copied, pickled, fresh, plain):
        assert torch.equal(other(x), want)
        loss_of(other).backward()
    for other in (copied, pickled, fresh):
        assert coppice.torch.masks_of(other) == coppice.torch.masks_of(model)
    moved = copied.double()
    assert moved.rnn.weight_hh_l0.dtype == torch.float64 and moved.rnn.weight_hh_l0_mask.dtype == torch.bool
    coppice.torch.remove_masks(model)
    assert not len(coppice.torch.masks_of(model))
    assert model.state_dict().keys() == Tagger(kind).state_dict().keys()


def test_cuts_go_on_from_the_masks_that_a_module_keeps():
    model = Tagger()
    coppice.torch.prune_(model, criterion="random", sparsity=0.4, buffers=True)
    first = coppice.torch.masks_of(model)
    coppice.torch.prune_(model, criterion="magnitude", sparsity=0.7, buffers=True)
    second = coppice.torch.masks_of(model)
    assert all(not (second[n] & ~first[n]).any() for n in first)
    weights = sum(second.size(n) for n in second)
    assert sum(second.kept(n) for n in second) == weights - round(0.7 * weights)


def test_autograd_hears_of_it():
    if not hasattr(torch.autograd.graph, "increment_version"):
        pytest.skip("this PyTorch can't be told")
    model = nn.Linear(5, 3)
    y = model(torch.randn(2, 5, requires_grad=True)).square().sum()
    coppice.torch.prune_(model, criterion="magnitude", sparsity=0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_record_adds_up_the_loop_s_gradients(by_hand):
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    want = {n: [0.0, 0.0, 0.0] for n, _ in model.named_parameters()}
    with coppice.torch.record(model, None if by_hand else optimizer) as record:
        for _ in range(4):
            optimizer.zero_grad()
            for _ in range(2):  # micro-batches: one gradient, of their sum
                loss_of(model).backward()
            for n, p in model.named_parameters():
                g = p.grad.double()
                want[n] = [w + d for w, d in zip(want[n], (g, g.abs(), g * g))]
            if by_hand:
                record.step()
            optimizer.step()
    train(model, optimizer)  # no longer heard
    found = record.statistics()
    assert found.count == 4 and len(found) == 3 * len(want)
    for n, sums in want.items():
        for kind, total in zip(("sum", "absolute", "squared"), sums):
            torch.testing.assert_close(found[f"{n}.{kind}"].double(), total, rtol=1e-5, atol=1e-7)


def test_a_record_is_what_the_program_reads(program, tmp_path):
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters())
    with coppice.torch.record(model, optimizer, activations=True) as record:
        train(model, optimizer)
    record.save(tmp_path / "g.safetensors")
    assert coppice.load_gradients(tmp_path / "g.safetensors").count == 3
    coppice.save(tmp_path / "w.safetensors", dict(model.named_parameters()))
    for criterion, option in (("fisher", "--gradients"), ("taylor-absolute", "--gradients"), ("wanda", "--activations")):
        out = tmp_path / f"{criterion}.safetensors"
        program("prune", tmp_path / "w.safetensors", option, tmp_path / "g.safetensors", "--criterion", criterion,
                "--sparsity", "0.6", "-o", out)  # fmt: skip
        mine = copy.deepcopy(model)
        result = coppice.torch.prune_(mine, record, criterion=criterion, sparsity=0.6)
        assert result.masks == coppice.Masks.load(f"{out}.masks.safetensors"), criterion
        want = coppice.load(out)
        for name, parameter in mine.named_parameters():
            assert np.array_equal(bits_of(parameter.detach().numpy()), bits_of(want[name])), name


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("packed", [False, True])
def test_norms_of_recurrent_inputs(kind, packed):
    """Against a loop over single steps, with cells of the same weights."""
    torch.manual_seed(5)
    rnn = kind(6, 5, num_layers=2, bidirectional=True)
    lengths = [7, 4, 2] if packed else [7, 7, 7]
    x = torch.randn(7, 3, 6)
    h0 = torch.randn(4, 3, 5)
    state = (h0, torch.randn(4, 3, 5)) if kind is nn.LSTM else h0
    sequence = nn.utils.rnn.pack_padded_sequence(x, lengths) if packed else x
    with coppice.torch.record(rnn, activations=True) as record:
        rnn(sequence, state)
    norms = record.norms()

    squares = {}
    for b, length in enumerate(lengths):
        inputs = list(x[:length, b])
        for layer in range(2):
            outputs = [[None, None] for _ in range(length)]
            for d, end in enumerate((f"_l{layer}", f"_l{layer}_reverse")):
                cell = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind](len(inputs[0]), 5)
                for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(cell, p).data.copy_(getattr(rnn, p + end))
                h = h0[2 * layer + d, b]
                hx = (h, state[1][2 * layer + d, b]) if kind is nn.LSTM else h
                for t in range(length) if d == 0 else reversed(range(length)):
                    for weight, seen in (("weight_ih", inputs[t]), ("weight_hh", h)):
                        key = weight + end
                        squares[key] = squares.get(key, 0) + seen.detach().double() ** 2
                    hx = cell(inputs[t], hx)
                    h = hx[0] if kind is nn.LSTM else hx
                    outputs[t][d] = h
            inputs = [torch.cat(pair) for pair in outputs]
    assert norms.keys() == squares.keys()
    for name, total in squares.items():
        torch.testing.assert_close(norms[name].double(), total.sqrt(), rtol=1e-5, atol=1e-5)


def test_norms_of_linear_layers_cells_and_attention():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(3, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            h = self.cell(x[:, 0], self.cell(x[:, 1]))[0][:, None]
            return self.out(self.attention(h, h, h)[0])

    model = Model()
    seen = []
    model.out.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with coppice.torch.record(model, activations=True) as record:
        for _ in range(3):
            model(torch.randn(5, 2, 3))
    norms = record.norms()
    assert set(norms) == {"cell.weight_ih", "cell.weight_hh", "attention.in_proj_weight", "out.weight"}
    torch.testing.assert_close(norms["out.weight"], torch.cat(seen).flatten(0, 1).norm(dim=0))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_and_state_stay_zero(name):
    model = Tagger()
    plain = OPTIMIZERS[name](model.parameters())
    train(model, plain)  # there is momentum to revive what is cut
    masks = coppice.torch.prune_(model, criterion="magnitude", sparsity=0.7).masks
    optimizer = coppice.torch.MaskedOptimizer(plain, model, masks)
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    rate = optimizer.param_groups[0]["lr"]
    kept_before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def check():
        parameters = dict(model.named_parameters())
        for n in masks:
            kept = torch.from_numpy(masks[n])
            assert (bits_of(parameters[n].detach().numpy()[~masks[n]]) == 0).all()  # +0
            for value in plain.state[parameters[n]].values():
                if value.shape == kept.shape:
                    assert not value[~kept].any()

    check()
    for step in range(4):
        train(model, plain if step % 2 else optimizer, 1)  # stepping either one is the same
        scheduler.step()
        check()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate / 4)
    assert all((kept_before[n] != p).any() for n, p in model.named_parameters())
    # State goes out and in.
    other = copy.deepcopy(model)
    again = coppice.torch.MaskedOptimizer(OPTIMIZERS[name](other.parameters()), other, masks)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.manual_seed(11)
    train(model, optimizer)
    torch.manual_seed(11)
    train(other, again)
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)
    check()
    assert optimizer.detach() is plain
    train(model, plain)
    assert any((dict(model.named_parameters())[n].detach().numpy()[~masks[n]] != 0).any() for n in masks)


def test_masks_that_fit_nothing():
    model = nn.Linear(3, 2)
    for masks, message in (({"weigh": np.ones((2, 3))}, "'weigh'"), ({"weight": np.ones((3, 2))}, r"\(3, 2\)")):
        with pytest.raises(coppice.Error, match=message):
            coppice.torch.apply_masks_(model, coppice.Masks.from_arrays(masks))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fisher"])
def test_a_gradual_schedule_follows_zhu_and_gupta(criterion):
    model = Tagger()
    plain = torch.optim.Adam(model.parameters(), 0.01)
    pruning = coppice.torch.GradualPruning(model, plain, criterion=criterion, sparsity=0.9, initial_sparsity=0.1,
                                           begin_step=2, end_step=14, frequency=3)  # fmt: skip
    weights = sum(p.numel() for n, p in model.named_parameters() if "rnn.weight" in n)
    before, cuts = None, []
    for step in range(1, 21):
        train(model, plain, 1)
        report = pruning.step()
        if report is not None:
            cuts.append(step)
            want = 0.9 + (0.1 - 0.9) * (1 - min(1, (step - 2) / 12)) ** 3
            assert report.kept == weights - round(want * weights)
        if before is not None:
            assert all(not (pruning.masks[n] & ~before[n]).any() for n in before)  # what is cut stays cut
        before = pruning.masks if len(pruning.masks) else None
        for n in pruning.masks:
            assert not dict(model.named_parameters())[n].detach().numpy()[~pruning.masks[n]].any()
    assert cuts == [2, 5, 8, 11, 14] and pruning.complete and pruning.sparsity == 0.9


def test_a_gradual_schedule_is_resumed():
    def begin():
        torch.manual_seed(1)
        model = Tagger()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return model, optimizer, coppice.torch.GradualPruning(model, optimizer, criterion="taylor", sparsity=0.8,
                                                              end_step=10, frequency=4)  # fmt: skip

    def go(model, optimizer, pruning, steps):
        for _ in range(steps):
            train(model, optimizer, 1)
            pruning.step()

    whole = begin()
    torch.manual_seed(2)
    go(*whole, 12)
    first = begin()
    torch.manual_seed(2)
    go(*first, 6)
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in first], buffer)
    buffer.seek(0)
    second = begin()
    for part, saved in zip(second, torch.load(buffer, weights_only=True)):
        part.load_state_dict(saved)
    torch.manual_seed(2)
    for _ in range(6):  # the same batches as the whole run's last six
        loss_of(second[0])
    go(*second, 6)
    assert second[2].masks == whole[2].masks
    for a, b in zip(whole[0].parameters(), second[0].parameters()):
        assert torch.equal(a, b)


def test_bad_schedules_are_named():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for options, message in (
        (dict(criterion="magnitude", sparsity=0.5, end_step=0), "end_step"),
        (dict(criterion="magnitude", sparsity=0.5, end_step=5, frequency=0), "frequency is 0"),
        (dict(criterion="magnitude", sparsity=0.5, end_step=5, initial_sparsity=0.6), "initial_sparsity"),
        (dict(criterion="magnitud", sparsity=0.5, end_step=5), "did you mean"),
    ):
        with pytest.raises(coppice.Error, match=message):
            coppice.torch.GradualPruning(model, optimizer, **options)
    with pytest.raises(coppice.Error, match="no gradient was recorded"):
        coppice.torch.Record(model).statistics()
    with pytest.raises(coppice.Error, match="statistics hold 'mean'"):
        coppice.torch.record(model, statistics=["mean"])
    record = coppice.torch.Record(model)
    model.weight.grad = torch.full((2, 3), float("inf"))
    record.step()
    with pytest.raises(coppice.Error, match="'weight.sum' of 1 gradients is not finite"):
        record.statistics()


def test_tied_weights_are_pruned_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(20, 20, bias=False)
            self.b = nn.Linear(20, 20, bias=False)
            self.b.weight = self.a.weight

    model = Tied()
    result = coppice.torch.prune_(model, criterion="magnitude", sparsity=0.5)
    assert list(result.masks) == ["a.weight"] and model.a.weight is model.b.weight
    assert int((model.a.weight == 0).sum()) == 200
    # And by names of a state dict, where both are there.
    model = Tied()
    result = coppice.prune(model.state_dict(), criterion="magnitude", sparsity=0.5, in_place=True)
    assert result.report.tied == [["a.weight", "b.weight"]]
    assert int((model.a.weight == 0).sum()) == 200
