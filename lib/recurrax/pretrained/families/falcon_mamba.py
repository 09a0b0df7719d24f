"""Maps Falcon Mamba checkpoints (tiiuae/falcon-mamba-7b, arXiv 2410.05355): Mamba with norms on dt, B and C."""

from recurrax.mixers import Mamba
from recurrax.pretrained.families import mamba
from recurrax.pretrained.family import Family


def read_config(fields):
    return mamba.read_config(fields, fields.number("mixer_rms_eps", 1e-6))


def write_config(config):
    return {**mamba.write_config(config), "mixer_rms_eps": config.pattern[0].inner_norm_eps}


FAMILY = Family(
    "falcon_mamba",
    "FalconMambaForCausalLM",
    (Mamba,),
    read_config,
    write_config,
    mamba.model,
    mamba.block,
    ignored_fields=mamba.IGNORED_FIELDS,
)
