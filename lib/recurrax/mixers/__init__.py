"""Token mixers: one published layer per file, each a config, a pure function and a Linen shell."""

from recurrax.mixers.base import Mixer, MixerConfig
from recurrax.mixers.directions import Bidirectional, BidirectionalLayer, Reversed, ReversedLayer
from recurrax.mixers.layers.attention import Attention, AttentionLayer, attention
from recurrax.mixers.layers.delta_product import DeltaProduct, DeltaProductLayer, delta_product
from recurrax.mixers.layers.deltanet import DeltaNet, DeltaNetLayer, deltanet
from recurrax.mixers.layers.gated_deltanet import GatedDeltaNet, GatedDeltaNetLayer, gated_deltanet
from recurrax.mixers.layers.gla import GLA, GLALayer, gla
from recurrax.mixers.layers.hgrn import HGRN, HGRNLayer, hgrn
from recurrax.mixers.layers.hgrn2 import HGRN2, HGRN2Layer, hgrn2
from recurrax.mixers.layers.kda import KDA, KDALayer, kda
from recurrax.mixers.layers.latent_attention import LatentAttention, LatentAttentionLayer, latent_attention
from recurrax.mixers.layers.lightnet import LightNet, LightNetLayer, lightnet
from recurrax.mixers.layers.lightning import Lightning, LightningLayer, lightning
from recurrax.mixers.layers.linear_attention import LinearAttention, LinearAttentionLayer, linear_attention
from recurrax.mixers.layers.lmu import LMU, LMULayer, lmu
from recurrax.mixers.layers.lru import LRU, LRULayer, eigenvalues, lru
from recurrax.mixers.layers.lssl import LSSL, LSSLLayer, lssl
from recurrax.mixers.layers.mamba import Mamba, MambaLayer, mamba
from recurrax.mixers.layers.mamba2 import Mamba2, Mamba2Layer, mamba2
from recurrax.mixers.layers.mlstm import MLSTM, MLSTMLayer, mlstm
from recurrax.mixers.layers.retnet import RetNet, RetNetLayer, retnet
from recurrax.mixers.layers.rglru import RGLRU, RGLRULayer, rglru
from recurrax.mixers.layers.rwkv7 import RWKV7, RWKV7Layer, rwkv7, rwkv7_value
from recurrax.mixers.layers.s4 import S4, S4Layer, s4
from recurrax.mixers.layers.s4d import S4D, S4DLayer, s4d
from recurrax.mixers.layers.s5 import S5, S5Layer, s5
from recurrax.mixers.layers.transnormer import TransNormer, TransNormerLayer, transnormer
from recurrax.mixers.layers.transnormer_llm import TransNormerLLM, TransNormerLLMLayer, transnormer_llm

__all__ = [
    "Attention",
    "AttentionLayer",
    "Bidirectional",
    "BidirectionalLayer",
    "DeltaNet",
    "DeltaNetLayer",
    "DeltaProduct",
    "DeltaProductLayer",
    "GLA",
    "GLALayer",
    "GatedDeltaNet",
    "GatedDeltaNetLayer",
    "HGRN",
    "HGRN2",
    "HGRN2Layer",
    "HGRNLayer",
    "KDA",
    "KDALayer",
    "LMU",
    "LMULayer",
    "LRU",
    "LRULayer",
    "LSSL",
    "LSSLLayer",
    "LatentAttention",
    "LatentAttentionLayer",
    "LightNet",
    "LightNetLayer",
    "Lightning",
    "LightningLayer",
    "LinearAttention",
    "LinearAttentionLayer",
    "MLSTM",
    "MLSTMLayer",
    "Mamba",
    "Mamba2",
    "Mamba2Layer",
    "MambaLayer",
    "Mixer",
    "MixerConfig",
    "RGLRU",
    "RGLRULayer",
    "RWKV7",
    "RWKV7Layer",
    "RetNet",
    "RetNetLayer",
    "Reversed",
    "ReversedLayer",
    "S4",
    "S4D",
    "S4DLayer",
    "S4Layer",
    "S5",
    "S5Layer",
    "TransNormer",
    "TransNormerLLM",
    "TransNormerLLMLayer",
    "TransNormerLayer",
    "attention",
    "delta_product",
    "deltanet",
    "eigenvalues",
    "gated_deltanet",
    "gla",
    "hgrn",
    "hgrn2",
    "kda",
    "latent_attention",
    "lightnet",
    "lightning",
    "linear_attention",
    "lmu",
    "lru",
    "lssl",
    "mamba",
    "mamba2",
    "mlstm",
    "retnet",
    "rglru",
    "rwkv7",
    "rwkv7_value",
    "s4",
    "s4d",
    "s5",
    "transnormer",
    "transnormer_llm",
]
