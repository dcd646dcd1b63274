"""Small checkpoints with random weights that other libraries wrote, and what these libraries compute with them
(`make.py`).
"""
