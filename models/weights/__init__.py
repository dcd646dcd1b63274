"""The names of these models' weights elsewhere: one file a layout, each a table that is read both ways."""
