"""SigLIP written once more by hand in each framework, for timing and for comparison; nothing here imports Keras."""
