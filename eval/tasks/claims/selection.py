"""To copy selectively, a recurrence must select (Mamba)."""

from eval.tasks.claims.base import Claim, all_pairs, bands
from eval.tasks.claims.pictures import over_length

SOLVE = {
    "selective-copying": ("Mamba", "GLA", "GatedDeltaNet", "GRU"),
    "induction-heads": ("Mamba", "GatedDeltaNet"),
}
FAIL = {
    "selective-copying": ("LRU", "S5", "S4D"),
    "induction-heads": ("LRU", "S5"),
}

CLAIM = Claim(
    name="selection",
    title="To copy selectively, a recurrence must select",
    paper="arXiv 2312.00752",
    statement="Layers whose gates or keys depend on the input copy symbols that lie at random places, and find what "
    "followed a sign, at several times the trained length; recurrences that are the same at every step learn "
    "the trained length at best.",
    compare=lambda found: bands(found, SOLVE, FAIL),
    pairs=all_pairs(SOLVE, FAIL),
    draw=lambda figure, found: over_length(figure, found, all_pairs(SOLVE, FAIL)),
    tried="only this. With gradients that were summed in another order GLA kept 0.92 of selective copying: trainings "
    "that differ in rounding end as far apart as those that differ in the seed.",
)
