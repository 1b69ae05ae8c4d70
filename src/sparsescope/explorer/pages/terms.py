"""What the words of the pages mean, in a sentence each."""

TERMS = {
    "site": (
        "Site",
        "The place in the model whose activations a dictionary takes apart: resid_post.2 is the residual stream "
        "after block 2.",
    ),
    "l0": ("L0", "Active latents per token, on average: the lower, the sparser."),
    "fvu": ("FVU", "Share of the activations' variance that the reconstruction leaves unexplained; 0 is perfect."),
    "ce_recovered": (
        "CE recovered",
        "The model's loss with the reconstruction in place of the activation, on a scale from 0 (zeros in its place) "
        "to 1 (the activation itself).",
    ),
    "shrinkage": ("Shrinkage", "Length of the reconstructions beside what it ought to be; below 1 they are too short."),
    "corpus_rho": (
        "Corpus ρ",
        "The score of an explanation: correlation of a latent's activation with what its explanation alone predicts, "
        "on documents that the explanation was not made from. 1 is perfect, 0 is guessing.",
    ),
    "excess": (
        "Excess",
        "Corpus ρ less that of the best control, something that should not be explicable as a learned feature. "
        "Below 0 the control does better.",
    ),
    "context_gain": (
        "Context gain",
        "What an explanation tells beyond the token itself: corpus ρ less that of the best list of tokens. 0 where "
        "latents stand for single tokens.",
    ),
    "bills_rho": (
        "Bills ρ",
        "The same correlation as it is often reported: on five of the strongest and five random fragments only. It "
        "does not notice an explanation that says too much.",
    ),
    "detection": ("Detection", "From the explanation, in which fragments is it active? AUROC: 0.5 is guessing."),
    "fuzzing": ("Fuzzing", "From the explanation, on which tokens is it active? AUROC: 0.5 is guessing."),
    "density": ("Density", "Share of tokens that a latent is active on. Dead: none; dense: more than 10%."),
    "effect": (
        "Effect",
        "How far the distribution of the next token moves when the latent is removed: mean KL divergence, in nats.",
    ),
    "f1": ("Best label", "The known label of the text that agrees best with the latent, with the F1 of the two."),
}
"""By key, mostly that of the report: the word, and what it means."""
RUN_TERMS = (
    "site", "l0", "fvu", "ce_recovered", "density",
    "corpus_rho", "excess", "context_gain", "bills_rho", "detection", "fuzzing",
)  # fmt: skip
DICTIONARY_TERMS = (
    "l0", "fvu", "ce_recovered", "shrinkage", "corpus_rho", "excess", "context_gain", "detection", "fuzzing",
    "density", "f1", "effect",
)  # fmt: skip
"""Words that the two pages use, in the order in which they come up."""
