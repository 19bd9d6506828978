"""Your own PyTorch model: gradients of your own loop, pruning in place, training on with the zeros held.

    python torch_lstm.py [FOLDER]

An LSTM says what it heard three steps ago. Needs PyTorch; takes some seconds.
"""

import sys

import coppice.torch
import torch

torch.manual_seed(1)
torch.set_num_threads(1)


class Echo(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(8, 16)
        self.lstm = torch.nn.LSTM(16, 64, batch_first=True)
        self.out = torch.nn.Linear(64, 8)

    def forward(self, x):
        return self.out(self.lstm(self.embedding(x))[0])


def batch(size=32):
    x = torch.randint(0, 8, (size, 20))
    return x, x.roll(3, dims=1)


def loss_of(model):
    x, y = batch()
    return torch.nn.functional.cross_entropy(model(x)[:, 3:].flatten(0, 1), y[:, 3:].flatten())


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model):
    x, y = batch(500)
    return (model(x).argmax(-1) == y)[:, 3:].float().mean().item()


model = Echo()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
train(model, optimizer, 300)
print(f"dense      {accuracy(model):.1%}")

# The gradients of some batches. (With an optimizer that steps, record(model, optimizer) around your loop does it.)
with coppice.torch.record(model) as record:
    for _ in range(20):
        model.zero_grad()
        loss_of(model).backward()
        record.step()

result = coppice.torch.prune_(model, record, criterion="fisher", sparsity=0.9, scope="gate")
print(f"cut        {accuracy(model):.1%}, {result.report.achieved:.1%} of the LSTM's weights are zero")
for gate in result.report.gates:
    print(f"  {gate.name:22} kept {gate.kept} of {gate.size}")

optimizer = coppice.torch.MaskedOptimizer(optimizer, model, result.masks)
train(model, optimizer, 200)
print(f"retrained  {accuracy(model):.1%}, {(model.lstm.weight_hh_l0 == 0).float().mean():.1%} of weight_hh_l0 are zero")

# The same cut by the program: coppice prune model.safetensors --gradients gradients.safetensors --criterion fisher ...
if len(sys.argv) > 1:
    record.save(f"{sys.argv[1]}/gradients.safetensors")
    result.masks.save(f"{sys.argv[1]}/masks.safetensors")
    torch.save(model.state_dict(), f"{sys.argv[1]}/model.pt")
