"""Small checkpoints with random weights, written by other libraries (`make.py`), and what these compute."""
