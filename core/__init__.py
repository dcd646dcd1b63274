"""What is written once: data, losses, training, evaluation. Imports none of the other rooms."""
