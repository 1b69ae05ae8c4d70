"""How well an explanation predicts a latent, as numbers with intervals.

    bills       Pearson over the tokens of 5 top and 5 random fragments, as in the paper
    corpus      Pearson over the whole corpus: a stratified sample, weighted back to natural frequency
    detection   in which fragments does it fire?
    fuzzing     on which tokens of a fragment does it fire?
    intruder    which of five fragments does not belong? (without any explanation)

Each has a pure function on numpy arrays at its core. A score of one latent is a `Score`, an estimate with
its bootstrap replicates, or a `Skipped` with the reason why the number is undefined: never a zero.
"""
