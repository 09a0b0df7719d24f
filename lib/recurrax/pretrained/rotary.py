"""Reads rotary positions from the fields that both major versions of transformers write.

Version 4 writes `rope_theta`, `partial_rotary_factor` and `rope_scaling`; version 5 writes all of them into
`rope_parameters`. Only positions that are not scaled are read.
"""

from recurrax.pretrained.fields import Fields

BUFFERS = (r".*\brotary_emb\.inv_freq",)
"""Regular expressions of the tables that old files hold in every layer, and that follow from theta."""


def read_rotary(
    fields: Fields, *, theta: float = 10_000.0, fraction: float | None = None, null_theta: bool = False
) -> tuple[float | None, float]:
    """Return theta and the fraction of each head's channels that is rotated.

    As in transformers 5, a `rope_scaling` that is not empty takes the place of `rope_parameters`, and what that object
    leaves out is read from the fields beside it.

    Args:
      theta: the default.
      fraction: the default; None: the published code rotates whole heads, whatever the file says.
      null_theta: whether the published code reads null as no positions; then theta is None.

    Raises:
      ValueError: scaled positions, of any type; fields of the object that are not known.
    """
    parameters, scaling = fields.nested("rope_parameters"), fields.nested("rope_scaling")
    for stated in (parameters, scaling):
        # Older files call it `type`.
        stated.require(stated.first("rope_type", "type"), "default")
        # The third matters to scaled positions alone.
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
    """Return the object `rope_parameters`; theta=None stands for no positions, fraction=None leaves the field out."""
    written = {"rope_type": "default", "rope_theta": theta}
    return written if fraction is None else {**written, "partial_rotary_factor": fraction}
