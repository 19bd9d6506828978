"""A sharded Transformer, pruned file to file by magnitude and by Wanda (arXiv 2306.11695).

    python transformer_shards.py FOLDER

A small causal Transformer learns to say what it heard three steps ago and is written as a Hugging Face shard index.
Its shards, of any size, stream through a few MiB. Needs PyTorch; takes half a minute.
"""

import json
import pathlib
import sys

import coppice.torch
import torch

torch.manual_seed(1)
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
WIDTH, HEADS, STEPS = 64, 4, 20


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, torch.nn.Linear(WIDTH, WIDTH, bias=False))
        self.up_proj = torch.nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down_proj = torch.nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.attention_norm, self.mlp_norm = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)

    def forward(self, x):
        h = self.attention_norm(x)
        q, k, v = (p(h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        return x + self.down_proj(torch.nn.functional.gelu(self.up_proj(self.mlp_norm(x))))


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(8, WIDTH)
        self.embed_positions = torch.nn.Embedding(STEPS, WIDTH)
        self.layers = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.lm_head = torch.nn.Linear(WIDTH, 8, bias=False)

    def forward(self, tokens):
        x = self.embed_tokens(tokens) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def batch(size=32):
    x = torch.randint(0, 8, (size, STEPS))
    return x, x.roll(3, dims=1)


@torch.no_grad()
def accuracy(model):
    x, y = batch(500)
    return (model(x).argmax(-1) == y)[:, 3:].float().mean().item()


model = Transformer()
optimizer = torch.optim.Adam(model.parameters(), 0.002)
for _ in range(500):
    x, y = batch()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x)[:, 3:].flatten(0, 1), y[:, 3:].flatten()).backward()
    optimizer.step()

# Two shards and their index, as the hub has them.
weight_map = {}
names = list(model.state_dict())
for number, part in enumerate((names[::2], names[1::2])):
    file = f"model-{number + 1:05}-of-00002.safetensors"
    coppice.save(folder / file, {name: model.state_dict()[name] for name in part})
    weight_map.update(dict.fromkeys(part, file))
index = folder / "model.safetensors.index.json"
index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

# The norms of every projection's inputs over some text: nothing is differentiated.
with torch.no_grad(), coppice.torch.record(model, activations=True) as record:
    for _ in range(10):
        model(batch()[0])
record.save(folder / "norms.safetensors")

# In a shell: coppice prune model.safetensors.index.json --criterion wanda --activations norms.safetensors ...
print(f"dense      {accuracy(model):.1%}")
for criterion, options in (
    ("magnitude", {}),
    ("wanda", {"activations": folder / "norms.safetensors"}),
):
    out = folder / criterion
    report = coppice.prune_file(index, out, criterion=criterion, sparsity=0.8, scope="row", memory="16MiB", **options)
    pruned = Transformer()
    pruned.load_state_dict({n: torch.from_numpy(t) for n, t in coppice.load(out / index.name).items()})
    print(f"{criterion:10} {accuracy(pruned):.1%}, {report.achieved:.1%} of {report.prunable} weights are zero; "
          f"carried over: {', '.join(sorted({t.reason for t in report.carried}))}")  # fmt: skip
