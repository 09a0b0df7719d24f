"""Reads and writes rotary positions in the fields of both major versions of transformers.

Version 4 writes `rope_theta`, `partial_rotary_factor` and `rope_scaling`; version 5 writes all of them into
`rope_parameters`. Only unscaled positions are supported.
"""

from recurrax.pretrained.fields import Fields

BUFFERS = (r".*\brotary_emb\.inv_freq",)
"""Regular expressions of the frequency tables that old files hold in every layer; they follow from theta."""


def read_rotary(
    fields: Fields, *, theta: float = 10_000.0, fraction: float | None = None, null_theta: bool = False
) -> tuple[float | None, float]:
    """Return theta and the fraction of each head's channels that is rotated.

    As in transformers 5, a `rope_scaling` that is not empty replaces `rope_parameters`, and values that the object
    lacks are read from the top-level fields.

    Args:
      theta: default of theta.
      fraction: default of the fraction; None: the published code always rotates whole heads.
      null_theta: whether the published code reads null as no rotary positions; theta is then None.

    Raises:
      ValueError: scaled positions of any type; unknown fields in the object.
    """
    parameters, scaling = fields.nested("rope_parameters"), fields.nested("rope_scaling")
    for stated in (parameters, scaling):
        # Older files call it `type`.
        stated.require(stated.first("rope_type", "type"), "default")
        # The third only affects scaled positions.
        stated.ignore("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        stated.refuse_others()
    fields.ignore("rope_theta", "partial_rotary_factor")
    used = scaling if scaling.values else parameters
    by_name = {name: used if name in used.values else fields for name in ("rope_theta", "partial_rotary_factor")}
    theta = by_name["rope_theta"].number("rope_theta", theta, null=null_theta)
    if fraction is None:
        by_name["partial_rotary_factor"].require("partial_rotary_factor", 1.0)
        return theta, 1.0
    return theta, by_name["partial_rotary_factor"].number("partial_rotary_factor", fraction)


def write_rotary(theta: float | None, fraction: float | None = None) -> dict[str, object]:
    """Return the object `rope_parameters`; theta=None means no positions, fraction=None omits the field."""
    written = {"rope_type": "default", "rope_theta": theta}
    return written if fraction is None else {**written, "partial_rotary_factor": fraction}
