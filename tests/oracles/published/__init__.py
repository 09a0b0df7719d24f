"""Published models as a whole, from their tensors to logits, step by step in NumPy float64.

For families whose own code needs a GPU or a hub. Per family two functions:

    shapes(config)                    every tensor that a checkpoint holds -> its shape
    forward(config, tensors, tokens)  tokens (B, T) -> logits (B, T, vocab)

`config` is what config.json says, `tensors` what the file holds; tensors that no equation reads are passed over. Linear
layers are stored as (out, in). What a config asks for and no equation here has is a ValueError.
"""

from oracles.published import fla, rwkv7, transnormer

FAMILIES = {
    "gla": (fla.shapes_gla, fla.gla),
    "delta_net": (fla.shapes_delta_net, fla.delta_net),
    "gated_deltanet": (fla.shapes_gated_deltanet, fla.gated_deltanet),
    "rwkv7": (rwkv7.shapes_rwkv7, rwkv7.rwkv7),
    "transnormer": (transnormer.shapes_transnormer, transnormer.transnormer),
}
