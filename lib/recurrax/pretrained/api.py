"""Provides `load` and `save`, which convert between a published checkpoint's directory and a model with parameters."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recurrax import checks
from recurrax.models import LanguageModel, LanguageModelConfig, parameters
from recurrax.models.backbone import DTYPES
from recurrax.parameters import flat, nested
from recurrax.pretrained import directory as files
from recurrax.pretrained.bookkeeping import read_bookkeeping, refuse_wrappers
from recurrax.pretrained.families import FAMILIES
from recurrax.pretrained.family import Family, blocks_of
from recurrax.pretrained.fields import Fields
from recurrax.pretrained.table import Entry, abstract, compare, entries, names_in, published, stacks
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
    """Return the model and parameters of a checkpoint, for `logits, state = model.apply(params, tokens)`.

    Reads config.json and the tensors, from one safetensors file or from several with an index, one parameter at a
    time. The names and shapes in the files are compared with those of the model before any tensor is read. Fields of
    config.json that the family does not know are ignored with a warning that names them.

    If the file has a head that differs from the embedding, the head is read even if `tie_word_embeddings` is true, as
    in transformers 5; `model.config.tied_head` is then False.

    Args:
      directory: directory of a Hugging Face checkpoint of a family in `FAMILIES`. A leading ~ is expanded.
      dtype: dtype of the activations, float32 or bfloat16.
      param_dtype: dtype to which parameters are cast, one of `PARAM_DTYPES`. Parameters whose role is
        "recurrence" have at least float32.
      max_length: cache size in tokens of attention without a window.
      sharding: function from path and shape of a parameter to its sharding; None: all parameters on one device.

    Raises:
      ValueError: an unknown family, dtype or setting; fields of a wrong type; quantised tensors; tensors that are
        missing, unknown or of another shape (all of them are listed); a damaged file.
    """
    param_dtype = _dtype("param_dtype", param_dtype, PARAM_DTYPES)
    opened = _opened(directory, dtype, max_length)
    params = {
        path: _on_device(array, None if sharding is None else sharding(path, opened.leaves[path]))
        for path, array in _arrays(opened, param_dtype)
    }
    return LanguageModel(opened.config), {"params": nested(params)}


def read_config(
    directory: str | pathlib.Path, *, dtype: Dtype = "float32", max_length: int = 2048
) -> LanguageModelConfig:
    """Return the config of the model that `load` would return; it reads no tensor but a head and an embedding.

    Raises:
      ValueError: as `load`.
    """
    return _opened(directory, dtype, max_length).config


def read_arrays(directory: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Return the parameters that `load` would return, by path, in float32 and in the memory of the host.

    Raises:
      ValueError: as `load`.
    """
    return dict(_arrays(_opened(directory, "float32", 2048), jnp.dtype("float32")))


class _Opened(NamedTuple):
    """A checkpoint whose names and shapes are those of its model."""

    config: LanguageModelConfig
    tensors: files.Tensors
    table: Sequence[Entry]
    leaves: Mapping[str, jax.ShapeDtypeStruct]


def _opened(directory, dtype, max_length) -> _Opened:
    dtype = _dtype("dtype", dtype, DTYPES)
    directory = pathlib.Path(directory).expanduser()
    family, config = described(directory)
    config = dataclasses.replace(config.with_context(max_length), dtype=dtype.name)
    tensors = files.Tensors(directory)
    config, table, leaves = _fitted(family, config, tensors)
    return _Opened(config, tensors, table, leaves)


def _arrays(opened: _Opened, param_dtype: jnp.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each parameter and its path; parameters whose role is "recurrence" have at least float32."""
    declared, tensors = parameters(opened.config), opened.tensors
    for rules in stacks(opened.table):
        arrays = {}
        for entry in rules:
            values = entry.rule.read(tuple(tensors[name] for name in names_in(entry.rule, tensors.shapes)))
            for path, value in zip(entry.paths, values, strict=True):
                exact = declared[path].role == "recurrence"
                stored = jnp.promote_types(param_dtype, jnp.float32) if exact else param_dtype
                if entry.index is None:
                    arrays[path] = value.astype(stored)
                else:
                    # Layers are cast one by one into their stack, to save memory.
                    arrays.setdefault(path, np.empty(opened.leaves[path].shape, stored))[entry.index] = value
        yield from arrays.items()


def family_of(directory: str | pathlib.Path) -> str:
    """Return the name of a checkpoint's family, a key of `FAMILIES`. Raises ValueError as `load`."""
    return described(pathlib.Path(directory).expanduser())[0].name


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
    """Write a model as a checkpoint of that family: config.json and safetensors, with an index if there are several.

    Tensors have the dtype of their parameters. The directory is written atomically. Neither a tokenizer nor tensors
    that `load` ignores are written.

    Args:
      directory: directory to write, which may be empty or absent. A leading ~ is expanded and links are followed.
      family: name of the family, a key of `FAMILIES`.
      fields: further fields of config.json, such as bos_token_id and eos_token_id; None: the special tokens are null.
      shard_bytes: maximal size of a file; a larger tensor gets a file of its own.

    Raises:
      ValueError: an unknown family; a model or parameters that the family cannot represent; fields that follow from
        the model or that `load` would refuse; a directory that is not empty.
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
    if config.context is not None:
        back = back.with_context(config.context)
    if back != config and _program(back) != _program(config):
        raise ValueError(f"{family.name} cannot hold this model; read back it would be\n{back}\ninstead of\n{config}")
    checks.same_structure("this model", params["params"], nested(abstract(config)))
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
    """Return the family and the model that the fields describe, and warn of fields that the family does not know."""
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
    """Return the config, its table and its parameters' shapes; the head is untied if the file's differs.

    Raises:
      ValueError: the tensors do not match the config.
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
    """Return the dtype of that name. Raises ValueError if it is not one of the choices, or not enabled."""
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
    """Return the programs of a first and of a later chunk, which are equal for configs that compute the same."""
    model = LanguageModel(config)
    tokens, params = jax.ShapeDtypeStruct((1, 2), jnp.int32), {"params": nested(abstract(config))}
    state = jax.eval_shape(lambda: model.init_state(1))
    made = jax.make_jaxpr(model.apply)(params, tokens), jax.make_jaxpr(model.apply)(params, tokens, state)
    return [(str(jaxpr), [np.asarray(const).tolist() for const in jaxpr.consts]) for jaxpr in made]


def _on_device(array, sharding):
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
