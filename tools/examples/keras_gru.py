"""A Keras model: out to safetensors, pruned, back in, trained on with the zeros held.

    python keras_gru.py FOLDER

A GRU says what it heard three steps ago. Needs Keras 3; takes half a minute.
"""

import pathlib
import sys

import coppice.keras
import keras
import numpy as np

keras.utils.set_random_seed(1)
folder = pathlib.Path(sys.argv[1])
x = np.random.randint(0, 8, (3000, 20))
y = np.roll(x, 3, axis=1)

model = keras.Sequential([
    keras.Input((20,), dtype="int32"),
    keras.layers.Embedding(8, 16, name="embedding"),
    keras.layers.GRU(64, return_sequences=True, name="gru"),
    keras.layers.Dense(8, name="out"),
])  # fmt: skip
model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))


def accuracy():
    return (model.predict(x[2500:], verbose=0).argmax(-1) == y[2500:])[:, 3:].mean()


model.fit(x[:2500], y[:2500], batch_size=50, epochs=6, verbose=0)
print(f"dense      {accuracy():.1%}")

# The file has PyTorch's names and its order of gates: the program, or PyTorch's nn.GRU, reads it as it is.
coppice.keras.to_safetensors(model, folder / "model.safetensors")
report = coppice.prune_file(
    folder / "model.safetensors", folder / "pruned.safetensors", criterion="magnitude", sparsity=0.8, scope="gate"
)
coppice.keras.from_safetensors(folder / "pruned.safetensors", model)
print(f"cut        {accuracy():.1%}, {report.achieved:.1%} of {report.prunable} weights are zero")

masks = coppice.Masks.load(folder / "pruned.safetensors.masks.safetensors")
model.fit(
    x[:2500], y[:2500], batch_size=50, epochs=4, verbose=0, callbacks=[coppice.keras.KeepPruned(model, masks)]
)
zero = (coppice.keras.tensors_of(model)["gru.weight_hh_l0"] == 0).mean()
print(f"retrained  {accuracy():.1%}, {zero:.1%} of the recurrent kernel are zero")
