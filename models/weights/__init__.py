"""How the weights of these models are called elsewhere: one file a layout, each a table that is read both ways."""
