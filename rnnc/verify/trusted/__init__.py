"""What the certificate checker stands on, and nothing else uses: a cell read in exact numbers, intervals, sums of
products and matrices, finite automata by brute force, and what the language of a claim is.

None of it searches, and none imports the analyses (`rnnc.analysis`), `rnnc.ir.domains`, or the verifier.
"""
