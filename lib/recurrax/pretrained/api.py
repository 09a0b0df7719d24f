"""Provides `load` and `save`: a published checkpoint's directory as a model with its parameters, and back."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax import checks
from recurrax.models import BlockConfig, LanguageModel, LanguageModelConfig
from recurrax.models.backbone import DTYPES
from recurrax.pretrained import directory as files
from recurrax.pretrained.bookkeeping import read_bookkeeping, refuse_wrappers
from recurrax.pretrained.families import FAMILIES
from recurrax.pretrained.family import Family, blocks_of
from recurrax.pretrained.fields import Fields
from recurrax.pretrained.table import abstract, compare, entries, flat, names_in, published, stacks
from recurrax.types import Dtype, Params

Sharding = Callable[[str, jax.ShapeDtypeStruct], jax.sharding.Sharding]
PARAM_DTYPES = ("float32", "bfloat16", "float16", "float64")


def load(
    directory: str | pathlib.Path,
    *,
    dtype: Dtype = "float32",
    param_dtype: Dtype = jnp.float32,
    max_length: int = 2048,
    sharding: Sharding | None = None,
) -> tuple[LanguageModel, Params]:
    """Read a published checkpoint, such that `logits, state = model.apply(params, tokens)`.

    Reads config.json and the tensors, in one safetensors file or in several with an index, one parameter at a time.
    The names and shapes in the files are compared with those that the model needs before any tensor is read. Fields of
    config.json that the family does not know are ignored with a warning that names them.

    A head in the file that differs from the embedding is read although `tie_word_embeddings` is true, as transformers 5
    does; `model.config.tied_head` is then False.

    Args:
      directory: of a Hugging Face checkpoint; the families are the keys of `FAMILIES`. A ~ stands for the home.
      dtype: what activations are computed in: float32 or bfloat16.
      param_dtype: what parameters are cast to, one of `PARAM_DTYPES`. The parameters that a mixer declares as `rates`
        stay in float32 at least.
      max_length: tokens that attention without a window remembers: the size of its cache.
      sharding: path and shape of a parameter -> how it is laid out over devices; None is one device.

    Raises:
      ValueError: an unknown family, dtype or setting; fields of a wrong type; quantised tensors; tensors that are
        missing, unknown or of another shape, all listed; a damaged file.
    """
    dtype, param_dtype = _dtype("dtype", dtype, DTYPES), _dtype("param_dtype", param_dtype, PARAM_DTYPES)
    directory = pathlib.Path(directory).expanduser()
    family, config = described(directory)
    config = dataclasses.replace(_with_cache(config, max_length), dtype=dtype.name)
    tensors = files.Tensors(directory)
    config, table, leaves = _fitted(family, config, tensors)

    params = {}
    for rules in stacks(table):
        arrays = {}
        for entry in rules:
            values = entry.rule.read(tuple(tensors[name] for name in names_in(entry.rule, tensors.shapes)))
            for path, value in zip(entry.paths, values, strict=True):
                stored = jnp.promote_types(param_dtype, jnp.float32) if path in entry.rates else param_dtype
                if entry.index is None:
                    arrays[path] = value.astype(stored)
                else:
                    # Layers are cast one by one into their stack.
                    arrays.setdefault(path, np.empty(leaves[path].shape, stored))[entry.index] = value
        for path, array in arrays.items():
            params[path] = _on_device(array, None if sharding is None else sharding(path, leaves[path]))
    return LanguageModel(config), {"params": _nested(params)}


def described(directory: pathlib.Path) -> tuple[Family, LanguageModelConfig]:
    """Return the family and the model that a directory's config.json describes.

    Raises:
      ValueError: an unknown family or setting; fields of a wrong type; quantised tensors.
    """
    return _read(Fields(files.read_config(directory), str(directory / "config.json")))


def save(
    directory: str | pathlib.Path,
    model: LanguageModel,
    params: Params,
    *,
    family: str,
    fields: Mapping[str, Any] | None = None,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write a model as a published checkpoint of that family: config.json and safetensors, with an index if several.

    Tensors have the dtype of their parameters. The directory appears whole or not at all. A tokenizer is not written,
    nor are tensors that `load` ignores.

    Args:
      directory: where to write; a ~ stands for the home, and a link for the directory that it names.
      fields: what config.json says besides: bos_token_id, eos_token_id and the like. No tokens are named without it.
      shard_bytes: a file is no larger, unless one tensor is.

    Raises:
      ValueError: an unknown family; a model or parameters that it cannot hold; fields that the model decides, or that
        `load` would refuse; a directory that is not empty.
    """
    checks.choice("family", family, FAMILIES)
    family, config, more = FAMILIES[family], model.config, dict(fields or {})
    kinds = {type(block.mixer) for block in blocks_of(config)}
    if kinds != set(family.mixers):
        has, holds = (", ".join(sorted(kind.__name__ for kind in those)) for those in (kinds, family.mixers))
        raise ValueError(f"{family.name} is a family of models with {holds}; this one has {has}")
    fields = family.write_config(config)
    if decided := sorted(fields.keys() & more.keys()):
        raise ValueError(f"fields {', '.join(decided)} follow from the model")
    fields = {"architectures": [family.architecture], "model_type": family.name, **fields, **more}
    back = dataclasses.replace(_read(Fields(fields))[1], dtype=config.dtype, remat=config.remat)
    caches = [block.mixer.max_length for block in blocks_of(config) if hasattr(block.mixer, "max_length")]
    back = _with_cache(back, *caches[:1])
    if _program(back) != _program(config):
        raise ValueError(f"{family.name} cannot hold this model; read back it would be\n{back}\ninstead of\n{config}")
    checks.same_structure("this model", params["params"], _nested(abstract(config)))
    leaves = flat(params["params"])
    table = entries(family, config)
    sources = {name: entry for entry in table for name in entry.rule.theirs}

    def values(entry):
        return tuple(
            np.asarray(leaves[path] if entry.index is None else leaves[path][entry.index]) for path in entry.paths
        )

    def tensor(names):
        found = {}
        for name in names:
            if name not in found:
                rule = sources[name].rule
                found |= zip(rule.theirs, rule.write(values(sources[name])), strict=True)
        return {name: found[name] for name in names}

    for entry in table:
        if not entry.rule.theirs:
            for path, is_, should in zip(entry.paths, values(entry), entry.rule.read(()), strict=True):
                if not np.array_equal(is_, should.astype(is_.dtype)):
                    raise ValueError(f"{path} is in no file of this family, and differs from what the config makes it")
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    shapes = published(table, leaves)
    files.write(pathlib.Path(directory).expanduser(), {**tokens, **fields}, shapes, tensor, shard_bytes)


def _read(fields):
    """Return the family and the model that the fields describe, and warn of those that it does not know."""
    refuse_wrappers(fields)
    name = fields.values.get("model_type")
    checks.choice("model_type", name, FAMILIES)
    family = FAMILIES[name]
    read_bookkeeping(fields)
    fields.ignore(*family.ignored_fields)
    config = family.read_config(fields)
    fields.finish()
    return family, config


def _fitted(family, config, tensors):
    """Return the config, its table and its parameters' shapes, with a head of its own if the file has another one.

    Raises:
      ValueError: the tensors are not those of the config.
    """
    own = dataclasses.replace(config, tied_head=False)
    heads = [name for rule in family.model(own) if "out_kernel" in rule.ours for name in rule.theirs]
    table, leaves = entries(family, config), abstract(config)
    ignored = (*family.ignored, *map(re.escape, heads if config.tied_head else ()))
    compare(str(tensors.directory), tensors.shapes, table, leaves, ignored)
    if not config.tied_head:
        return config, table, leaves
    (embedding,) = next(names_in(entry.rule, tensors.shapes) for entry in table if entry.paths == ("embedding",))
    others = (name for name in heads if name in tensors.shapes and name != embedding)
    if all(np.array_equal(tensors[name], tensors[embedding]) for name in others):
        return config, table, leaves
    return _fitted(family, own, tensors)


def _dtype(name, value, choices):
    """Return the dtype of that name. Raises ValueError if it is none of the choices, or not enabled."""
    try:
        # NumPy reads None as float64.
        dtype = None if value is None else jnp.dtype(value)
    except TypeError:
        dtype = None
    checks.choice(name, value if dtype is None else dtype.name, choices)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name} {dtype.name} needs jax_enable_x64; without it JAX would make it float32")
    return dtype


def _program(config):
    """Return what a model computes, whatever its config calls it: the programs of a first chunk and of a later one."""
    model = LanguageModel(config)
    tokens, params = jax.ShapeDtypeStruct((1, 2), jnp.int32), {"params": _nested(abstract(config))}
    state = jax.eval_shape(lambda: model.init_state(1))
    made = jax.make_jaxpr(model.apply)(params, tokens), jax.make_jaxpr(model.apply)(params, tokens, state)
    return [(str(jaxpr), [np.asarray(const).tolist() for const in jaxpr.consts]) for jaxpr in made]


def _with_cache(config, max_length=None):
    """Return the config with caches of that many tokens, which no checkpoint states."""

    def changed(of):
        if isinstance(of, BlockConfig):
            return dataclasses.replace(of, mixer=changed(of.mixer))
        return dataclasses.replace(of, max_length=max_length) if hasattr(of, "max_length") else of

    if max_length is None:
        return config
    parts = {name: tuple(map(changed, getattr(config, name))) for name in ("first", "pattern", "last")}
    return dataclasses.replace(config, **parts)


def _on_device(array, sharding):
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _nested(leaves):
    tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, tree)[last] = leaf
    return tree
