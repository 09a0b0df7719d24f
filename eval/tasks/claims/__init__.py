"""What the field claims of these layers, a claim per file: predictions, what is run for them, and what was found."""

from eval.tasks.claims import (
    gradient_descent,
    long_memory,
    recall,
    selection,
    stability,
    state_tracking,
    universality,
)
from eval.tasks.claims.base import Check, Claim, Findings, verdict

CLAIMS = {
    module.CLAIM.name: module.CLAIM
    for module in (universality, state_tracking, recall, selection, stability, gradient_descent, long_memory)
}

__all__ = ["CLAIMS", "Check", "Claim", "Findings", "verdict"]
