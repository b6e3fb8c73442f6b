"""Where each layer rule, quantity and analysis is checked against something independent: name -> the test's module.

Token rules have theirs in `tests/engines/loops.py`, since every engine's tests use them.
"""

from __future__ import annotations

LAYER_ORACLES = {
    "full": "tests/test_methods.py",
    "mean": "tests/test_methods.py",
    "uniform": "tests/allocation/test_schedules.py",
    "ascending": "tests/allocation/test_schedules.py",
    "descending": "tests/allocation/test_schedules.py",
    "lexi": "tests/allocation/test_lexi.py",
    "alloc_l": "tests/allocation/test_alloc_l.py",
    "adapmoe": "tests/allocation/test_joint.py",
    "xmoe": "tests/allocation/test_joint.py",
    "yang": "tests/allocation/test_yang.py",
    "seer": "tests/allocation/test_seer.py",
    "reap": "tests/allocation/test_seer.py",
    "distinct": "tests/allocation/test_cost.py",
    "one_pass": "tests/allocation/test_one_pass.py",
}
QUANTITY_ORACLES = {
    "perplexity": "tests/profile/test_algorithm1.py",
    "distances": "tests/profile/test_algorithm1.py",
    "top_p": "tests/profile/test_algorithm1.py",
    "naee": "tests/profile/test_algorithm1.py",
    "fisher": "tests/profile/test_fisher.py",
    "adapmoe": "tests/profile/test_curves.py",
    "xmoe": "tests/profile/test_curves.py",
    "soft_counts": "tests/profile/test_expert_scores.py",
    "saliency": "tests/profile/test_expert_scores.py",
    "decode": "tests/profile/test_decode.py",
    "decode_pairs": "tests/profile/test_decode.py",
    "score_threshold": "tests/profile/test_algorithm1.py",
    "contribution_threshold": "tests/profile/test_algorithm1.py",
    "norms": "tests/profile/test_expert_scores.py",
    "rescale": "tests/profile/test_curvature.py",
    "curvature": "tests/profile/test_curvature.py",
}
ANALYSIS_ORACLES = {
    "load": "tests/analyses/test_load.py",
    "entropy": "tests/analyses/test_entropy.py",
    "ablation": "tests/analyses/test_compared.py",
    "k_base": "tests/analyses/test_k_base.py",
    "calibration": "tests/analyses/test_calibration.py",
    "layer_rules": "tests/analyses/test_compared.py",
    "token_rules": "tests/analyses/test_compared.py",
    "batch": "tests/analyses/test_batch.py",
    "neighbours": "tests/analyses/test_strangers.py",
}
